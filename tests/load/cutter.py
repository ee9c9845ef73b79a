"""Many clients that do not let their requests finish: they leave, set deadlines too near, or have a call cancelled.

A closed loop: each client sends the next request when the last one is over or cut. What was answered in spite of it
must still be right.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field

from tests.load.http_client import Answer, BrokenAnswer, Connection

HANG_S = 15.0
CUTS = ("leave", "leave", "leave", "deadline", "deadline", "front", "middle", "none")


@dataclass(slots=True)
class Cuts:
    """How many requests ended how."""

    counts: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    """What none of the cuts explains: errors, hangs, foreign answers."""

    @property
    def sent(self) -> int:
        return sum(self.counts.values())

    def summary(self) -> str:
        ended = " ".join(f"{name}={count}" for name, count in sorted(self.counts.items()))
        return f"{self.sent} requests: {ended} | surprises {len(self.surprises)} {self.surprises[:5]}"


class Cutter:
    """Sends `total` requests to a chain (tests/cluster/chain_apps.py) and cuts most of them at a random moment."""

    def __init__(
        self, port: int, total: int, *, clients: int, longest_s: float, seed: int, cuts: tuple[str, ...] = CUTS
    ) -> None:
        self._port, self._total, self._clients, self._cuts_of = port, total, clients, cuts
        self._longest_s = longest_s
        self._random = random.Random(seed)
        self._numbers = iter(range(total))
        self.cuts = Cuts()

    async def run(self) -> Cuts:
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(), name=f"client {number}")
        return self.cuts

    async def _client(self) -> None:
        connection: Connection | None = None
        for number in self._numbers:
            if connection is None or connection.closed:
                connection = await Connection.open("127.0.0.1", self._port)
            await self._one(connection, f"cut-{os.getpid()}-{number}")
        if connection is not None:
            connection.close()

    async def _one(self, connection: Connection, nonce: str) -> None:
        cut = self._random.choice(self._cuts_of)
        after_s = self._random.random() * self._longest_s
        path = f"{'/stream' if cut not in ('front', 'middle') and self._random.random() < 0.3 else '/'}?nonce={nonce}"
        headers = {"x-request-id": nonce}
        if cut == "deadline":
            headers["x-request-timeout-seconds"] = f"{max(after_s, 0.001):.4f}"
        elif cut in ("front", "middle"):
            path += f"&cut={cut}&after_ms={max(after_s / 2, 0.0005) * 1e3:.2f}"  # the call is shorter than the request
        try:
            async with asyncio.timeout(after_s if cut == "leave" else HANG_S):
                answer = await connection.request("GET", path, headers=headers)
        except TimeoutError:
            connection.close()
            self._count("left" if cut == "leave" else "hang", cut, nonce)
        except BrokenAnswer as error:
            # A deadline that passes within an answer cuts it: a cut answer never looks complete.
            connection.close()
            self._count("reset" if cut == "deadline" else f"broken {error}", cut, nonce)
        else:
            self._count(_judged(answer, nonce), cut, nonce)

    def _count(self, ended: str, cut: str, nonce: str) -> None:
        self.cuts.counts[f"{cut}/{ended}"] += 1
        if ended not in _EXPECTED[cut]:
            self.cuts.surprises.append(f"{cut}: {ended} ({nonce})")


_EXPECTED = {
    "leave": {"left", "ok"},
    "deadline": {"408", "503", "reset", "ok"},
    "front": {"cancelled", "ok"},
    "middle": {"cancelled", "ok"},
    "none": {"ok"},
}


def _judged(answer: Answer, nonce: str) -> str:
    text = bytes(answer.body).decode("utf-8", "replace")
    if answer.status == 408 or (answer.status == 503 and "before its deadline" in text):
        return str(answer.status)
    if answer.status not in (200, 409):
        return f"{answer.status} {text[:200]}"
    if text.startswith("{"):
        said = json.loads(text)
        if said["nonce"] != nonce:
            return "foreign answer"
        return "cancelled" if said.get("cancelled") else "ok"
    lines = text.splitlines()
    expected = [f"{nonce} {index}" for index in range(len(lines) - 1)]
    complete = lines[:-1] == expected and len(lines) > 1 and lines[-1].startswith(f"{nonce} end")
    return "ok" if complete else f"wrong stream {lines[-3:]}"
