"""One log format for all processes: time, level, process, sentence, then `key=value` fields and the request id.

Fields come from `extra={...}`; `action` is the stable machine name of the event.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

from serve_rt.context import current_request

STANDARD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname} {self._process} {record.getMessage()}"
        fields = {key: value for key, value in record.__dict__.items() if key not in STANDARD_ATTRIBUTES}
        request = current_request.get()
        if request is not None and request.request_id:
            fields["request_id"] = request.request_id
        if fields:
            line += " -- " + " ".join(f"{key}={value}" for key, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(process: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send this process's log records to `stream` (default stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FieldFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
