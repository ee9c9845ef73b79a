"""One line per request in the replica's log, cheap enough to leave on.

Lines are gathered and written a few times a second with one system call; a replica that is killed loses the last
moment's lines (its requests are still in the proxy's log). The format is that of serve_rt.observe.log, built by hand:
a LogRecord per request would cost as much as everything else here together.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping

from serve_rt.observe.user_log import UserLog

FLUSH_S = 0.25
MAX_GATHERED_LINES = 500


class AccessLog:
    """Main loop only. *Resources*: `close()` writes what is left."""

    def __init__(self, loop: asyncio.AbstractEventLoop, process: str, *, fd: int = 2) -> None:
        self._loop = loop
        self._process = process
        self._fd = fd
        self._lines: list[str] = []
        self.enabled = True
        self._json: Mapping[str, str] | None = None
        """What every line holds when lines are JSON."""
        self._second = 0
        self._stamp = ""

    def follow(self, log: UserLog) -> None:
        """Take the configuration and the descriptor of the replica's log."""
        self.enabled = log.options.access_log
        self._json = log.json_fields() if log.options.encoding == "JSON" else None
        self._fd = log.fd

    def add(self, method: str, route: str, status: int | str, took_s: float, request_id: str) -> None:
        if not self.enabled:
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        if self._json is not None:
            self._gather(self._json_line(now, method, route, status, took_s, request_id))
            return
        line = (
            f"{self._stamp}.{int((now - second) * 1000):03d} INFO {self._process} request done -- action=request "
            f"method={method} route={route} status={status} ms={took_s * 1000:.1f} request_id={request_id}\n"
        )
        self._gather(line)

    def _json_line(self, now: float, method: str, route: str, status: int | str, took_s: float, request_id: str) -> str:
        line = {
            "asctime": f"{self._stamp},{int((now - self._second) * 1000):03d}",
            "levelname": "INFO",
            "message": f"{method} {route} {status} {took_s * 1000:.1f}ms",
            **(self._json or {}),
            "action": "request",
            "request_id": request_id,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(took_s * 1000, 1),
        }
        return json.dumps(line, ensure_ascii=False) + "\n"

    def _gather(self, line: str) -> None:
        lines = self._lines
        lines.append(line)
        if len(lines) == 1:
            self._loop.call_later(FLUSH_S, self.flush)
        elif len(lines) >= MAX_GATHERED_LINES:
            self.flush()

    def flush(self) -> None:
        if not self._lines:
            return
        data = "".join(self._lines).encode("utf-8", "backslashreplace")
        self._lines.clear()
        try:
            os.write(self._fd, data)
        except OSError:  # a full disk must not stop requests
            pass

    def close(self) -> None:
        self.flush()
