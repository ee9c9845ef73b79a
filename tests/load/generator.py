"""The open loop: request number i is due at i / rate, whatever became of the others.

A closed loop slows down with the server and so forgets the requests that would have suffered (coordinated omission);
here a late answer delays nothing. Idle keep-alive connections are used again, youngest first; when none is idle a new
one is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from tests.load.checks import Shooter, judge
from tests.load.http_client import BrokenAnswer, Connection
from tests.load.outcomes import Record, Report, Verdict

GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Aim:
    host: str
    port: int
    shooter: Shooter
    rate_per_s: float
    deadline_s: float = 10.0
    """Sent as x-request-timeout-seconds too."""
    duration_s: float = 1e9
    name: str = "load"
    max_open: int = 2000
    attempts: int = 1
    """A rude client: asks again at once, so often in all, when it is refused or fails."""


class Generator:
    """Runs one aim on the current loop.

    *Resources*: `run()` closes what it opened.
    """

    def __init__(self, aim: Aim) -> None:
        self._aim = aim
        self._idle: list[Connection] = []
        self._records: list[Record] = []
        self._stop = asyncio.Event()
        self._open = 0

    def stop(self) -> None:
        """Send no more; `run()` returns when what was sent has its verdict."""
        self._stop.set()

    @property
    def report(self) -> Report:
        return Report(list(self._records))

    async def run(self) -> Report:
        loop = asyncio.get_running_loop()
        start = loop.time()
        shots: set[asyncio.Task[None]] = set()
        try:
            for number, due_s in self._schedule():
                if await self._stopped_before(start + due_s):
                    break
                nonce = f"{self._aim.name}-{os.getpid()}-{number}"
                task = loop.create_task(self._fire(nonce, start, due_s), name=f"shot {nonce}")
                shots.add(task)
                task.add_done_callback(shots.discard)
            if shots:
                await asyncio.wait(set(shots))
        finally:
            for connection in self._idle:
                connection.close()
        return Report(sorted(self._records, key=lambda record: record.scheduled_s))

    def _schedule(self) -> Iterator[tuple[int, float]]:
        number = 0
        while (due_s := number / self._aim.rate_per_s) < self._aim.duration_s:
            yield number, due_s
            number += 1

    async def _stopped_before(self, when: float) -> bool:
        delay_s = when - asyncio.get_running_loop().time()
        if delay_s <= 0:
            return self._stop.is_set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay_s)
        return self._stop.is_set()

    async def _fire(self, nonce: str, start: float, due_s: float) -> None:
        loop = asyncio.get_running_loop()
        sent_s = loop.time() - start
        verdict, reason, status, pid, version = Verdict.HANG, "no complete answer in time", 0, 0, ""
        attempts = 0
        try:
            async with asyncio.timeout_at(start + due_s + self._aim.deadline_s + GRACE_S):
                while verdict is not Verdict.OK and attempts < self._aim.attempts:
                    attempts += 1
                    status, verdict, reason, pid, version = await self._ask(nonce)
        except TimeoutError:
            verdict = Verdict.HANG
        except BrokenAnswer as error:
            verdict, reason = Verdict.FAILED, str(error)
        except OSError as error:
            verdict, reason = Verdict.FAILED, f"connect: {type(error).__name__}"
        end_s = loop.time() - start
        self._records.append(Record(nonce, due_s, sent_s, end_s, verdict, reason, status, pid, version, attempts))

    async def _ask(self, nonce: str) -> tuple[int, Verdict, str, int, str]:
        shot = self._aim.shooter(nonce)
        headers = {"x-request-id": nonce, "x-request-timeout-seconds": str(self._aim.deadline_s), **shot.headers}
        connection = await self._connection()
        try:
            answer = await connection.request(shot.method, shot.path, headers=headers, body=shot.body)
        except BaseException:
            connection.close()
            raise
        finally:
            self._open -= 1
        if not connection.closed:
            self._idle.append(connection)
        judged = judge(shot, answer)
        return answer.status, judged.verdict, judged.reason, judged.pid, judged.version

    async def _connection(self) -> Connection:
        if self._open >= self._aim.max_open:
            raise BrokenAnswer(f"the generator itself has {self._open} requests open")
        self._open += 1
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        try:
            return await Connection.open(self._aim.host, self._aim.port)
        except BaseException:
            self._open -= 1
            raise
