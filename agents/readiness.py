"""What is up? A proxy worker that accepts; and we, to whoever started us: one JSON line on `--ready-fd`, once the node
is registered and its proxy answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

from serve_rt.agents.launcher.records import Handle
from serve_rt.agents.node import ThisNode

log = logging.getLogger(__name__)
_POLL_S = 0.01
_ANSWER_S = 2.0


async def proxy_answers(host: str, port: int, https: bool, timeout_s: float) -> bool:
    """Does a worker answer /-/healthz within `timeout_s`? What it answers does not matter here."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while asyncio.get_running_loop().time() < deadline:
        try:
            async with asyncio.timeout(_ANSWER_S):
                if await _asked(host, port, https):
                    return True
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(_POLL_S)
    return False


async def worker_accepts(path: Path, worker: Handle, timeout_s: float) -> bool:
    """Did this worker write its pid to `path`? False when it ended first, or not within `timeout_s`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while asyncio.get_running_loop().time() < deadline:
        if _pid_in(path) == worker.pid:
            return True
        if not worker.alive():
            return False
        await asyncio.sleep(_POLL_S)
    return False


def _pid_in(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


async def _asked(host: str, port: int, https: bool) -> bool:
    tls = None
    if https:
        from serve_rt.credentials.http_tls import probe_context  # where it is asked for

        tls = probe_context()
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        writer.write(f"GET /-/healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        return (await reader.read(16)).startswith(b"HTTP/1.1 ")
    finally:
        writer.close()


def report(fd: int, node: ThisNode, http_address: str) -> None:
    line = json.dumps(
        {"node_id": node.node_id, "address": node.address, "http_address": http_address, "pid": os.getpid()}
    )
    try:
        os.write(fd, line.encode() + b"\n")
        os.close(fd)
    except OSError as error:  # whoever asked is gone; the owner's pid says what follows from that
        log.warning("nobody reads --ready-fd %d: %s", fd, error.strerror, extra={"action": "ready_unread"})
