"""The generator in processes of its own, so that a busy test does not delay the load.

    with LoadProcess(port, rate_per_s=50) as load:
        ...                        # break something
    assert load.report.lost == 0

The children stop when their stdin closes, so they cannot outlive the test that started them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.load.outcomes import Record, Report, Verdict

_FIELDS = tuple(field.name for field in fields(Record))
ROOT = Path(__file__).resolve().parents[2]


class LoadProcess:
    """*Resources*: a context manager; `report` is there after its end."""

    def __init__(
        self,
        port: int,
        *,
        rate_per_s: float,
        shooter: str = "echo",
        path: str = "/",
        deadline_s: float = 10.0,
        processes: int = 1,
        host: str = "127.0.0.1",
        name: str = "load",
        max_open: int = 2000,
        attempts: int = 1,
    ) -> None:
        self._command = [sys.executable, "-m", "tests.load", "--host", host, "--port", str(port), "--shooter", shooter]
        self._command += ["--path", path, "--rate", str(rate_per_s / processes), "--deadline", str(deadline_s)]
        self._command += ["--name", name, "--max-open", str(max_open), "--attempts", str(attempts)]
        self._command += ["--until-stdin-closes"]
        self._count = processes
        self._deadline_s = deadline_s
        self._children: list[subprocess.Popen[str]] = []
        self.report = Report()

    def __enter__(self) -> LoadProcess:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        for _ in range(self._count):
            child = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env
            )
            self._children.append(child)
        for child in self._children:
            assert _pipe(child.stdout).readline().strip() == "started", "the load generator did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> Report:
        """Send no more, wait for what was sent, and return the report."""
        reports = []
        for child in self._children:
            output, _ = child.communicate(timeout=self._deadline_s + 20)
            reports.append(Report([_record(json.loads(line)) for line in output.splitlines()]))
        if self._children:
            self._children = []
            self.report = Report.merged(reports)
        return self.report


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _record(values: dict[str, Any]) -> Record:
    return Record(**{**values, "verdict": Verdict(values["verdict"])})


def encoded(record: Record) -> str:
    return json.dumps({name: getattr(record, name) for name in _FIELDS})
