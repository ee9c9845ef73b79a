"""One line per request in the replica's log, cheap enough to leave on.

Lines are gathered and written a few times a second with one system call; a replica that is killed loses the last
moment's lines (its requests are still in the proxy's log). The format is that of serve_rt.observe.log, built by hand:
a LogRecord per request would cost as much as everything else here together.
"""

from __future__ import annotations

import asyncio
import os
import time

FLUSH_S = 0.25
MAX_GATHERED_LINES = 500


class AccessLog:
    """Main loop only. *Resources*: `close()` writes what is left."""

    def __init__(self, loop: asyncio.AbstractEventLoop, process: str, *, fd: int = 2) -> None:
        self._loop = loop
        self._process = process
        self._fd = fd
        self._lines: list[str] = []
        self._second = 0
        self._stamp = ""

    def add(self, method: str, route: str, status: int | str, took_s: float, request_id: str) -> None:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        line = (
            f"{self._stamp}.{int((now - second) * 1000):03d} INFO {self._process} request done -- action=request "
            f"method={method} route={route} status={status} ms={took_s * 1000:.1f} request_id={request_id}\n"
        )
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
