"""The Forwarded header (RFC 7239), which says in one what X-Forwarded-For, -Proto and -Host say in three."""

import re

# A token, "=", and a token or a quoted string; addresses with a port are often written without the quotes they need.
_PAIR = re.compile(r'[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;\s]*))')
_BLANKS = re.compile(r"[ \t]*")
_ESCAPED = re.compile(r"\\(.)")

# What one proxy says of a request: ``for``, ``by``, ``proto``, ``host``.
Hop = dict[str, str]


def read(value: str) -> list[Hop]:
    """Return what each proxy says, the one nearest to us last; nothing at all if it is not well-formed.

    Half of a header would not do: a client's quote that does not end would hide what a proxy has written behind it.
    """
    hops: list[Hop] = [{}]
    position = 0
    while True:
        if (pair := _PAIR.match(value, position)) is not None:
            name = pair[1].lower()
            if name in hops[-1]:
                return []
            hops[-1][name] = pair[3] if pair[2] is None else _ESCAPED.sub(r"\1", pair[2])
            position = pair.end()
        after = _BLANKS.match(value, position)
        position = position if after is None else after.end()
        if position == len(value):
            return hops
        if value[position] == ",":
            hops.append({})
        elif value[position] != ";":
            return []
        position += 1
