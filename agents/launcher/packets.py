"""Between the launcher and its fork parents: one JSON object per packet over a socket pair, descriptors attached.

    to a nursery      fork {name, incarnation} [listening socket] · nurse {generation} [its socket] · modules
                      · (end: it ends too)
    from a nursery    born {pid} · forked · failed {message} · exited {pid, status} · importing {module}
                      · skipped {module, why} · spoilt {module, why} · ready {modules}

A spec does not travel: it lies in the reserved handle file.
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any

MAX_PACKET_BYTES = 180_000
"""A packet must fit into the default socket buffer (208 KiB)."""
_MAX_FDS = 4

Packet = dict[str, Any]  # Any: JSON


def packet_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(link: socket.socket, packet: Packet, fds: tuple[int, ...] = ()) -> None:
    """*Errors*: BlockingIOError when the other side is behind; OSError when it is gone."""
    data = json.dumps(packet, separators=(",", ":")).encode()
    attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    link.sendmsg([data], attached)


def receive(link: socket.socket) -> tuple[Packet, list[int]] | None:
    """The next packet and its descriptors; None at the end. *Errors*: BlockingIOError, OSError."""
    room = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
    data, attached, _flags, _address = link.recvmsg(MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    fds = array.array("i")
    for level, kind, payload in attached:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    packet: Packet = json.loads(data)
    return packet, list(fds)
