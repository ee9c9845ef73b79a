"""A port for a replica: chosen once per assignment, kept over restarts, so that routes stay true without etcd."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from serve_rt.agents.settings import PortRange
from serve_rt.errors import UnavailableError


def choose_port(host: str, ports: PortRange, taken: Collection[int], kept: int = 0) -> int:
    """`kept` if it can be bound, else any free port of the range that is not `taken` by another assignment.

    *Errors*: UnavailableError when the range is used up.
    """
    if kept and can_bind(host, kept):
        return kept
    size = ports.last - ports.first + 1
    offset = random.randrange(size)  # agents of one machine share the range: starting apart, they seldom meet
    for i in range(size):
        port = ports.first + (offset + i) % size
        if port not in taken and can_bind(host, port):
            return port
    raise UnavailableError(
        f"no port between {ports.first} and {ports.last} is free on {host}: give a wider --replica-ports"
    )


def can_bind(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not hold a port
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
