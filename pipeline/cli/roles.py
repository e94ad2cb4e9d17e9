"""Parse `--roles left=agent,right=customer`, and tell roles that do not fit a file."""

from collections.abc import Sequence

from pipeline.errors import InputError

_SIDES = {"left": 0, "right": 1, "mono": 0}


def parse_roles(text: str | None) -> list[str]:
    """Return the role of each channel, in channel order. Channels without a role are called `channel-<index>`.

    Accepts `left=agent,right=customer`, `0=agent,1=customer` or `agent,customer`. Raises InputError.
    """
    if not text:
        return []
    by_channel: dict[int, str] = {}
    for position, part in enumerate(text.split(",")):
        side, equals, role = (piece.strip() for piece in part.partition("="))
        if not equals:
            side, role = str(position), side
        channel = _SIDES.get(side.lower(), int(side) if side.isdigit() else -1)
        if channel < 0 or channel > 7 or not role or not role.isprintable():
            raise InputError(f"--roles {text!r}: expected left=ROLE,right=ROLE or 0=ROLE,1=ROLE,…")
        if channel in by_channel:
            raise InputError(f"--roles {text!r} names channel {channel} twice")
        by_channel[channel] = role
    return [by_channel.get(channel, f"channel-{channel}") for channel in range(max(by_channel) + 1)]


def misfit(roles: Sequence[str], channels: int) -> str | None:
    """Return why roles do not fit a file of so many channels, and what becomes of its speakers; None if they fit."""
    if len(roles) > channels == 1:
        return (
            f"--roles names {len(roles)} channels, but the file is mono: everybody in it is called {roles[0]!r}. "
            "Without --roles its speakers are told apart by their voices"
        )
    if len(roles) > channels:
        return (
            f"--roles names {len(roles)} channels, but the file has {channels}: {', '.join(roles[channels:])} not used"
        )
    if 0 < len(roles) < channels:
        unnamed = ", ".join(f"channel-{channel}" for channel in range(len(roles), channels))
        return f"--roles names {len(roles)} of the file's {channels} channels; the others are called {unnamed}"
    return None
