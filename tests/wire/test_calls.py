import pytest

from schemas.calls import CallRef


@pytest.mark.parametrize(
    ("parts", "event_id"),
    [
        (("separate", 17), "default/call-1/separate.1/17"),
        (("merge", "completed", 4), "default/call-1/merge.1/completed/4"),
        (("separate", "interim", 1, 8000, 2), "default/call-1/separate.1/interim/1/8000/2"),
    ],
)
def test_event_ids_keep_the_form_of_those_already_published(parts: tuple[str, ...], event_id: str) -> None:
    assert CallRef("default", "call-1").event_id(*parts) == event_id
