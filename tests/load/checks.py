"""What to send, and whether the answer is the answer to it.

A check knows its request: the nonce in it must come back, and a stream must count from 0 to its end without a gap.
The applications that answer like this are in `tests/cluster/apps.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.load.http_client import Answer
from tests.load.outcomes import Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    verdict: Verdict
    reason: str = ""
    pid: int = 0
    version: str = ""


@dataclass(frozen=True, slots=True)
class Shot:
    """One request and the judge of its answer (called for complete 2xx answers only)."""

    nonce: str
    path: str
    judge: Callable[[str, Answer], Judged]
    method: str = "GET"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Shooter = Callable[[str], Shot]
"""Makes the shot for a nonce."""


def judge(shot: Shot, answer: Answer) -> Judged:
    """The verdict on a complete answer."""
    if answer.status in (429, 503):
        if any(name.lower() == b"retry-after" for name, _ in answer.fields):
            return Judged(Verdict.REFUSED, f"{answer.status} {_start(answer)}")
        return Judged(Verdict.FAILED, f"{answer.status} without Retry-After: {_start(answer)}")
    if not 200 <= answer.status < 300:
        return Judged(Verdict.FAILED, f"{answer.status} {_start(answer)}")
    return shot.judge(shot.nonce, answer)


def _start(answer: Answer) -> str:
    return bytes(answer.body[:80]).decode("utf-8", "replace").replace("\n", " ")


def judge_echo(nonce: str, answer: Answer) -> Judged:
    try:
        body = json.loads(bytes(answer.body))
        echoed, pid, version = body["nonce"], int(body.get("pid", 0)), str(body.get("version", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Judged(Verdict.WRONG, f"not an echo ({type(error).__name__})")
    if echoed != nonce:
        return Judged(Verdict.WRONG, "foreign nonce", pid, version)
    return Judged(Verdict.OK, "", pid, version)


def judge_stream(nonce: str, answer: Answer) -> Judged:
    """Lines `<nonce> 0`, `<nonce> 1`, … and at last `<nonce> end <pid>`."""
    lines = bytes(answer.body).decode("utf-8", "replace").splitlines()
    for index, line in enumerate(lines[:-1]):
        if line != f"{nonce} {index}":
            return Judged(Verdict.WRONG, f"line {index} is out of order or foreign")
    if not lines or not lines[-1].startswith(f"{nonce} end"):
        return Judged(Verdict.WRONG, "looks complete, but the last line is missing")
    return Judged(Verdict.OK, "", int(lines[-1].split()[2]) if len(lines[-1].split()) > 2 else 0)


def judge_any(nonce: str, answer: Answer) -> Judged:
    return Judged(Verdict.OK)


def echo(path: str = "/") -> Shooter:
    return lambda nonce: Shot(nonce, f"{path}?nonce={nonce}", judge_echo)


def echo_post(path: str = "/", *, headers: Mapping[str, str] | None = None) -> Shooter:
    def shot(nonce: str) -> Shot:
        body = json.dumps({"nonce": nonce}).encode()
        return Shot(nonce, path, judge_echo, "POST", body, {"content-type": "application/json", **(headers or {})})

    return shot


def stream(path: str = "/", count: int = 20) -> Shooter:
    return lambda nonce: Shot(nonce, f"{path}?nonce={nonce}&count={count}", judge_stream)


def fresh(path: str = "/") -> Shooter:
    """Each on a connection of its own."""
    return lambda nonce: Shot(nonce, f"{path}?nonce={nonce}", judge_echo, headers={"connection": "close"})


def slow_stream(path: str = "/") -> Shooter:
    """A second and a half long: it outlives what happens to the worker that began it."""
    query = "count=30&pause_ms=50"
    return lambda nonce: Shot(nonce, f"{path}?nonce={nonce}&{query}", judge_stream)


def timed(path: str = "/") -> Shooter:
    """Tells the application when it was sent, on the machine's monotonic clock."""
    return lambda nonce: Shot(nonce, f"{path}?nonce={nonce}&sent={time.monotonic():.4f}", judge_echo)


SHOOTERS: Mapping[str, Callable[[str], Shooter]] = {
    "echo": echo,
    "echo_post": echo_post,
    "fresh": fresh,
    "slow_stream": slow_stream,
    "stream": stream,
    "timed": timed,
}
"""By name, for the command line."""
