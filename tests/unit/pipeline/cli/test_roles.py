import pytest

from pipeline.cli.roles import misfit, parse_roles
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        (None, []),
        ("", []),
        ("left=agent,right=customer", ["agent", "customer"]),
        ("right=agent,left=customer", ["customer", "agent"]),
        ("agent,customer", ["agent", "customer"]),
        ("1=customer", ["channel-0", "customer"]),
        (" left = agent ", ["agent"]),
    ],
)
def test_roles_are_listed_by_channel(text: str | None, roles: list[str]) -> None:
    assert parse_roles(text) == roles


@pytest.mark.parametrize("text", ["up=agent", "left=", "left=agent,left=customer", "9=agent", ",", "=agent"])
def test_what_names_no_channel_or_role_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--roles"):
        parse_roles(text)


def test_roles_that_do_not_fit_the_file_are_told_with_what_becomes_of_its_speakers() -> None:
    two = ["agent", "customer"]
    assert misfit(two, 2) is None
    assert misfit([], 2) is None
    assert misfit(["agent"], 1) is None
    assert misfit(two, 1) == (
        "--roles names 2 channels, but the file is mono: everybody in it is called 'agent'. "
        "Without --roles its speakers are told apart by their voices"
    )
    assert misfit([*two, "supervisor"], 2) == "--roles names 3 channels, but the file has 2: supervisor not used"
    assert misfit(["mono"], 2) == "--roles names 1 of the file's 2 channels; the others are called channel-1"
