"""What llhttp takes although two readers may understand it differently: the pure half of the strictness here."""

from __future__ import annotations

import re

_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


def is_host(value: bytes) -> bool:
    """Whether it may stand in a Host header."""
    return _HOST.fullmatch(value) is not None


def names_host(target: bytes, host: bytes) -> bool:
    """Whether a request's target is `http://host/…` of the Host header's host: no other absolute one is taken."""
    absolute = _ABSOLUTE.match(target)
    return absolute is not None and absolute[1].lower() == host.lower()
