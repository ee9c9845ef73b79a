"""Who sits on a port? For messages that name the process instead of an errno."""

from __future__ import annotations

import socket

from serve_rt.errors import ConflictError

COMMAND_CHARS = 120
"""Of the holder's command line, on one line: what to do about it comes after that and must be seen."""


def refuse_if_taken(host: str, port: int, option: str) -> None:
    """*Errors*: ConflictError naming the port and its holder. Port 0 is always free."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConflictError(
                f"{host}:{port} cannot be bound ({error.strerror}): {describe_holder(port)}; "
                f"stop it or give another {option} (0 takes any free port)"
            ) from error


def describe_holder(port: int) -> str:
    import psutil  # lazily: it is needed for this message only

    try:
        for connection in psutil.net_connections(kind="tcp"):
            here = connection.laddr and connection.laddr.port == port
            if connection.status == psutil.CONN_LISTEN and here and connection.pid:
                command = " ".join(" ".join(psutil.Process(connection.pid).cmdline()).split())[:COMMAND_CHARS]
                return f"it is held by pid {connection.pid} ({command or 'unknown command'})"
    except psutil.Error:
        pass
    return "it is held by a process of another user or of the system"
