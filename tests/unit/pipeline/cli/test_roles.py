import pytest

from pipeline.cli.roles import parse_roles
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
