from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.replica.process import ReplicaProcess, start_replica
from tests.replica.wire_client import PATIENCE_S

Start = Callable[..., ReplicaProcess]


class Marks:
    """A file where deployments leave words for the test; `str(marks)` is its path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def words(self) -> list[str]:
        return self._path.read_text().splitlines() if self._path.exists() else []

    async def appears(self, word: str, *, times: int = 1) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while self.words.count(word) < times:
            assert time.monotonic() < deadline_s, f"{word!r} did not appear, only {self.words}"
            await asyncio.sleep(0.005)

    def __str__(self) -> str:
        return str(self._path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start replicas that are killed, by pid, when the test ends."""
    running: list[ReplicaProcess] = []

    def begin(target: Callable[..., Any], *args: Any, **options: Any) -> ReplicaProcess:
        replica = start_replica(tmp_path / f"replica{len(running)}", target, *args, **options)
        running.append(replica)
        return replica

    yield begin
    for replica in running:
        replica.kill()


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(tmp_path / "marks")
