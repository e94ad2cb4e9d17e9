"""Parse `--roles left=agent,right=customer`."""

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
