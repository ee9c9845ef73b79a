"""The parts of a replica that need no process."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import threading
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from serve_rt.errors import BackPressureError, InvalidTransition
from serve_rt.model.ids import ReplicaId
from serve_rt.replica.access_log import AccessLog
from serve_rt.replica.cancel_flag import CancelFlag
from serve_rt.replica.crossing import Crossing
from serve_rt.replica.failures import MAX_TRACEBACK_CHARS, users_traceback
from serve_rt.replica.http_answer import answer_for, answer_for_error, chunk_bytes
from serve_rt.replica.json_text import to_json
from serve_rt.replica.reports import Phase, Reports
from serve_rt.replica.rotating_log import RotatingLog
from serve_rt.replica.thread_pool import ThreadPool
from serve_rt.replica.user_code import Shape, UserCode


@dataclass
class Point:
    x: int
    when: datetime.datetime


class Model:
    def model_dump(self, **_: Any) -> dict[str, int]:
        return {"field": 1}


def test_json_of_what_users_return() -> None:
    import numpy

    moment = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    value = {"p": Point(1, moment), "m": Model(), "n": numpy.eye(1), "d": Decimal("1.5"), "b": b"x", "s": {1}}
    assert json.loads(to_json(value)) == {
        "p": {"x": 1, "when": "2020-01-02T00:00:00+00:00"},
        "m": {"field": 1},
        "n": [[1.0]],
        "d": 1.5,
        "b": "x",
        "s": [1],
    }
    assert to_json({"a": ["é", None, True]}) == '{"a":["é",null,true]}'.encode()


def test_json_refuses_in_words() -> None:
    with pytest.raises(TypeError, match="object cannot be turned into JSON: return a str"):
        to_json(object())
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(float("nan"))
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(RecursionError):
        to_json(circle)


def test_answers() -> None:
    answer = answer_for({"a": 1})
    assert answer == (200, (b"content-type", b"application/json", b"content-length", b"7"), b'{"a":1}')
    made = answer_for(JSONResponse({}, status_code=202))
    assert made is not None and made.status == 202
    assert answer_for(StreamingResponse(iter(()))) is None, "must run"
    from starlette.background import BackgroundTask

    assert answer_for(PlainTextResponse("x", background=BackgroundTask(print))) is None, "its task must run"
    assert chunk_bytes({"a": 1}) == b'{"a":1}\n' and chunk_bytes("é") == "é".encode()


def test_errors_that_are_answers() -> None:
    missing = answer_for_error(HTTPException(404, "no such thing", headers={"X-Why": "gone"}))
    assert missing is not None and (missing.status, missing.body) == (404, b"no such thing")
    assert missing.headers[-2:] == (b"x-why", b"gone")
    refused = answer_for_error(BackPressureError(3, 2, 429, 1.2))
    assert refused is not None and refused.status == 429 and refused.headers[-2:] == (b"retry-after", b"2")
    assert answer_for_error(ValueError()) is None


def test_traceback_is_shortened_in_the_middle() -> None:
    text = users_traceback(ValueError("a" * 3 * MAX_TRACEBACK_CHARS))
    assert len(text) < MAX_TRACEBACK_CHARS + 100
    assert "characters left out" in text and text.startswith("ValueError: aaa")


def test_pool_runs_side_by_side_up_to_its_limit_and_survives_exits() -> None:
    pool = ThreadPool(2)
    gate, inside = threading.Barrier(3), threading.Semaphore(0)

    def meet() -> None:
        gate.wait(10)

    for _ in range(2):
        pool.submit(meet)
    gate.wait(10)  # both are inside at once, or this times out
    for _ in range(4):
        pool.submit(inside.release)
    assert all(inside.acquire(timeout=10) for _ in range(4))
    assert "2 of 2 threads" in repr(pool)


def test_pool_thread_survives_system_exit() -> None:
    pool, done = ThreadPool(1), threading.Event()

    def leave() -> None:
        raise SystemExit

    pool.submit(leave)
    pool.submit(done.set)
    assert done.wait(10)


def test_crossing_keeps_order_and_survives_a_failing_call() -> None:
    async def cross() -> list[int]:
        seen: list[int] = []
        done = asyncio.Event()
        crossing = Crossing(asyncio.get_running_loop(), "test")

        def post_all() -> None:
            for number in range(1000):
                crossing.post(seen.append, number)
                if number == 500:
                    crossing.post(lambda: 1 // 0)
            crossing.post(done.set)

        thread = threading.Thread(target=post_all)
        thread.start()
        await asyncio.wait_for(done.wait(), 10)
        thread.join()
        return seen

    assert asyncio.run(cross()) == list(range(1000))


def test_post_to_a_closed_loop_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    crossing = Crossing(loop, "test")
    crossing.post(print, "never")
    assert repr(crossing) == "<Crossing test [0 waiting]>"


def test_cancel_flag_wakes_a_waiter_that_came_first_and_one_that_came_late() -> None:
    flag, seen = CancelFlag(), threading.Event()
    assert not flag.wait(0.001)
    waiter = threading.Thread(target=lambda: seen.set() if flag.wait(10) else None)
    waiter.start()
    flag.set()
    waiter.join(10)
    assert seen.is_set() and flag.is_set() and flag.wait(0)


def test_log_rotates_and_keeps_three(tmp_path: Path) -> None:
    path = tmp_path / "r.log"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        log = RotatingLog((fd,), max_bytes=10)
        assert not log.check()
        for number in range(5):
            os.write(fd, b"%d" % number * 10)
            assert log.check()
        os.write(fd, b"now")
    finally:
        os.close(fd)
    found = {file.name: file.read_text()[:3] for file in tmp_path.iterdir()}
    assert found == {"r.log": "now", "r.log.1": "444", "r.log.2": "333", "r.log.3": "222"}


def test_access_lines_are_gathered_and_written(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    async def write() -> None:
        with path.open("wb") as file:
            log = AccessLog(asyncio.get_running_loop(), "replica r", fd=file.fileno())
            log.add("GET", "/x", 200, 0.0123, "id1")
            assert path.read_bytes() == b""  # a test's own file
            log.close()

    asyncio.run(write())
    line = path.read_text()
    assert "INFO replica r" in line and "method=GET route=/x status=200 ms=12.3 request_id=id1" in line


def test_phases_follow_their_table() -> None:
    async def move() -> None:
        reports = Reports(ReplicaId("a#b#c"), 1)
        reports.move(Phase.READY)
        with pytest.raises(InvalidTransition, match="READY -> CONSTRUCTING"):
            reports.move(Phase.CONSTRUCTING)
        assert not await reports.delivered(0.01), "nobody watches"
        watch = reports.watch()
        assert (await anext(watch)).phase is Phase.READY
        reports.close()
        assert [report async for report in watch] == [], "the end comes after the last report"
        assert await reports.delivered(0.01)

    asyncio.run(move())


def test_shapes_of_user_code() -> None:
    class Callable_:
        async def __call__(self) -> None: ...
        def plain(self, _x: int) -> None: ...
        def items(self) -> Any:
            yield 1

        async def aitems(self) -> Any:
            yield 1

    code = UserCode(Callable_())
    assert code.http is not None and code.http.shape is Shape.ASYNC and not code.http.takes_argument
    assert code.method("plain").shape is Shape.SYNC and code.method("plain").in_thread
    assert code.method("items").shape is Shape.GENERATOR
    assert code.method("aitems").shape is Shape.ASYNC_GENERATOR
    assert code.method("plain") is code.method("plain"), "looked up once"
    assert UserCode(Point(1, datetime.datetime.now(datetime.UTC))).http is None
