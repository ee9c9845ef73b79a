"""A replica's log as its deployment's `logging_config` wants it: level, encoding, folder, more attributes.

Made by `serve_rt.replica.main` before user code is imported, applied again when the configuration changes. Lines go to
descriptor 2 (the launcher has pointed it at the node's log of this replica), or to a file of their own in `logs_dir`;
what the program prints always goes to the former.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_rt.context import current_request
from serve_rt.model.spec import LoggingOptions
from serve_rt.observe.log import STANDARD_ATTRIBUTES, FieldFormatter

_QUIET = ("asyncio", "grpc", "httpx", "httpcore")
"""Libraries that tell too much below WARNING, whatever level the program wants for itself."""


class UserLog:
    """*Resources*: `close()` closes the file in `logs_dir`."""

    def __init__(self, process: str, names: Mapping[str, str], options: LoggingOptions) -> None:
        self._process = process
        self._names = names
        """application, deployment, replica: in every line of JSON."""
        self._file: int | None = None
        self._folder: str | None = None
        self.options = options
        self.apply(options)

    @property
    def fd(self) -> int:
        """Where lines are written."""
        return 2 if self._file is None else self._file

    def apply(self, options: LoggingOptions) -> None:
        """*Errors*: OSError when the folder cannot be written to; nothing is changed then."""
        if options.logs_dir != self._folder:
            self._move_to(options.logs_dir)
        self.options = options
        handler = _FdHandler(self)
        handler.setFormatter(self._formatter())
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(options.level)
        for name in _QUIET:
            logging.getLogger(name).setLevel(max(logging.WARNING, root.level))

    def json_fields(self) -> Mapping[str, str]:
        return {"component_name": "replica", **self._names}

    def _formatter(self) -> logging.Formatter:
        if self.options.encoding == "JSON":
            return JsonFormatter(self.json_fields(), self.options.standard_attributes)
        return _TextFormatter(self._process, self.options.standard_attributes)

    def _move_to(self, folder: str | None) -> None:
        file = None
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            name = "replica_" + "_".join(part.replace("/", "_") for part in self._names.values()) + ".log"
            file = os.open(Path(folder) / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.close()
        self._file, self._folder = file, folder

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class _FdHandler(logging.Handler):
    """Writes each line with one call, to whatever the log's descriptor is by then."""

    def __init__(self, log: UserLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(self._log.fd, (self.format(record) + "\n").encode("utf-8", "backslashreplace"))
        except OSError:  # a full disk must not stop requests
            pass
        except Exception:  # a wrong format string of the program: told the way logging does
            self.handleError(record)


class _TextFormatter(FieldFormatter):
    def __init__(self, process: str, attributes: tuple[str, ...]) -> None:
        super().__init__(process)
        self._attributes = attributes

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        shown = " ".join(f"{name}={getattr(record, name, None)}" for name in self._attributes)
        if not shown:
            return line
        first, newline, rest = line.partition("\n")
        return f"{first} -- {shown}{newline}{rest}" if " -- " not in first else f"{first} {shown}{newline}{rest}"


class JsonFormatter(logging.Formatter):
    """One object per line, with Ray's names."""

    def __init__(self, fields: Mapping[str, str], attributes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._fields = dict(fields)
        self._attributes = attributes

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            "process": record.process,
            **self._fields,
        }
        line |= {name: getattr(record, name, None) for name in self._attributes}
        line |= {name: value for name, value in record.__dict__.items() if name not in STANDARD_ATTRIBUTES}
        request = current_request.get()
        if request is not None and request.request_id:
            line |= {"request_id": request.request_id, "route": request.route}
        if record.exc_info:
            line["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)
