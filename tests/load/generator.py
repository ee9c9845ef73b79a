"""The open loop: request number i is due at i / rate, whatever became of the others.

A closed loop slows down with the server and so forgets the requests that would have suffered (coordinated omission);
here a late answer delays nothing. Idle keep-alive connections are used again, youngest first; when none is idle a new
one is opened. On the two cores of a test the generator competes with what it measures: a request costs it no task, no
timer and no parser of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from functools import partial

from tests.load.checks import Shooter, Shot, judge
from tests.load.http_client import Answer, BrokenAnswer, Connection
from tests.load.outcomes import Record, Report, Verdict

GRACE_S = 1.0
SWEEP_S = 0.1
"""How often it is looked whether requests hang."""
BURST = 64
"""When it is late it catches up in bursts of so many, and reads answers in between."""


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


@dataclass(eq=False, slots=True)
class Flight:
    """A request that has no verdict yet."""

    nonce: str
    due_s: float
    sent_s: float
    attempts: int = 0
    connection: Connection | None = None


class Generator:
    """Runs one aim on the current loop.

    *Resources*: `run()` closes what it opened.
    """

    def __init__(self, aim: Aim) -> None:
        self._aim = aim
        self._idle: list[Connection] = []
        self._records: list[Record] = []
        self._flights: dict[Flight, None] = {}
        """In the order they were due, and so in the order of their ends."""
        self._opening: set[asyncio.Task[None]] = set()
        self._start_s = 0.0
        self._number = 0
        self._timer: asyncio.Handle | None = None
        self._stopping = False
        self._over = asyncio.Event()
        self._common = f"host: {aim.host}:{aim.port}\r\nx-request-timeout-seconds: {aim.deadline_s}\r\nx-request-id: "

    def stop(self) -> None:
        """Send no more; `run()` returns when what was sent has its verdict."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._end_when_over()

    @property
    def report(self) -> Report:
        return Report(list(self._records))

    async def run(self) -> Report:
        self._start_s = time.monotonic()
        sweeping = asyncio.create_task(self._sweep_for_ever(), name="sweep")
        try:
            self._send_what_is_due()
            await self._over.wait()
        finally:
            sweeping.cancel()
            for task in tuple(self._opening):
                task.cancel()
            await asyncio.gather(sweeping, *self._opening, return_exceptions=True)
            for connection in self._idle:
                connection.close()
        return Report(sorted(self._records, key=lambda record: record.scheduled_s))

    def _now_s(self) -> float:
        return time.monotonic() - self._start_s  # not the loop's time, which is that of the turn's beginning

    def _send_what_is_due(self) -> None:
        aim = self._aim
        for _ in range(BURST):
            due_s = self._number / aim.rate_per_s
            self._stopping = self._stopping or due_s >= aim.duration_s
            now_s = self._now_s()
            if self._stopping or due_s > now_s:
                break
            flight = Flight(f"{aim.name}-{os.getpid()}-{self._number}", due_s, now_s)
            self._number += 1
            if len(self._flights) >= aim.max_open:
                self._end(flight, Verdict.FAILED, f"the generator itself has {len(self._flights)} requests open")
            else:
                self._flights[flight] = None
                self._send(flight)
        if self._stopping:
            self._end_when_over()
        else:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due_s - now_s), self._send_what_is_due)

    # --- one request ----------------------------------------------------------------------------------------------

    def _send(self, flight: Flight) -> None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                self._ask(flight, connection)
                return
        task = asyncio.create_task(self._open_for(flight), name=f"connect for {flight.nonce}")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open_for(self, flight: Flight) -> None:
        try:
            connection = await Connection.open(self._aim.host, self._aim.port)
        except OSError as error:
            self._end(flight, Verdict.FAILED, f"connect: {type(error).__name__}")
            return
        if flight in self._flights:
            self._ask(flight, connection)
        else:
            self._idle.append(connection)

    def _ask(self, flight: Flight, connection: Connection) -> None:
        shot = self._aim.shooter(flight.nonce)
        flight.attempts += 1
        flight.connection = connection
        more = "".join([f"\r\n{name}: {value}" for name, value in shot.headers.items()])
        if shot.body or shot.method == "POST":
            more += f"\r\ncontent-length: {len(shot.body)}"
        head = f"{shot.method} {shot.path} HTTP/1.1\r\n{self._common}{flight.nonce}{more}\r\n\r\n"
        connection.send(head.encode() + shot.body, partial(self._answered, flight, shot))

    def _answered(self, flight: Flight, shot: Shot, answer: Answer | BrokenAnswer) -> None:
        connection, flight.connection = flight.connection, None
        if flight not in self._flights:
            return  # it hung, and its connection was closed for that
        if isinstance(answer, BrokenAnswer):
            self._end(flight, Verdict.FAILED, str(answer))
            return
        if connection is not None and not connection.closed:
            self._idle.append(connection)
        judged = judge(shot, answer)
        if judged.verdict is not Verdict.OK and flight.attempts < self._aim.attempts:
            self._send(flight)
        else:
            self._end(flight, judged.verdict, judged.reason, answer.status, judged.pid, judged.version)

    def _end(
        self, flight: Flight, verdict: Verdict, reason: str, status: int = 0, pid: int = 0, version: str = ""
    ) -> None:
        self._flights.pop(flight, None)
        times_s = flight.due_s, flight.sent_s, self._now_s()
        self._records.append(Record(flight.nonce, *times_s, verdict, reason, status, pid, version, flight.attempts))
        if self._stopping:
            self._end_when_over()

    def _end_when_over(self) -> None:
        if not self._flights:
            self._over.set()

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            late_s = self._now_s() - self._aim.deadline_s - GRACE_S
            for flight in [flight for flight in self._flights if flight.due_s < late_s]:
                connection = flight.connection
                self._end(flight, Verdict.HANG, "no complete answer in time")
                if connection is not None:
                    connection.close()
