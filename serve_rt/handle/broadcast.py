"""`handle.broadcast(method, …)`: one call to every replica of a deployment, past their limits, and all answers.

For what each replica must hear, such as dropping a cache. A replica that appears while it is under way is not called;
one that is gone or cannot be reached has an error for an answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from serve_rt.errors import RequestCancelledError
from serve_rt.handle.buffers import Received
from serve_rt.handle.call import Call, find_route
from serve_rt.handle.crossing import settled
from serve_rt.handle.response import ValueSink, fresh_error, in_event_loop
from serve_rt.handle.serialization import load_value

if TYPE_CHECKING:
    from serve_rt.routing import Exchange

T = TypeVar("T")
Answers = list["Received | BaseException"]


class BroadcastSink:
    def __init__(self) -> None:
        self.answers: concurrent.futures.Future[Answers] = concurrent.futures.Future()

    async def receive(self, exchange: Exchange) -> None:
        raise AssertionError("a broadcast has several exchanges")

    def receive_ready(self, exchange: Exchange) -> bool:
        raise AssertionError("a broadcast has several exchanges")

    def settle(self, answers: Answers) -> None:
        if not self.answers.done():
            self.answers.set_result(answers)

    def fail(self, error: BaseException) -> None:
        if not self.answers.done():
            self.answers.set_exception(error)


class BroadcastCall(Call):
    _sink: BroadcastSink

    def _open_at_once(self) -> None:
        """All replicas are asked, not the next free one."""

    async def _drive(self) -> None:
        exchanges: list[Exchange] = []
        try:
            await self._pack()
            routes = await self._runtime.routes()
            outgoing = self._outgoing(await find_route(routes, self.key))
            assert outgoing.call is not None
            outgoing.pinned = outgoing.call.past_limit = True
            exchanges += await routes.router(self.key).send_everywhere(outgoing)
            self._sink.settle(await asyncio.gather(*map(_answer_of, exchanges)))
        except asyncio.CancelledError:
            self._sink.fail(RequestCancelledError(self.request_id))
        except Exception as error:  # whatever it is, the caller gets it
            self._sink.fail(error)
        finally:
            for exchange in exchanges:
                exchange.cancel("the broadcast is over")  # harmless for those that have answered


async def _answer_of(exchange: Exchange) -> Received | BaseException:
    sink = ValueSink()
    try:
        await sink.receive(exchange)
    except Exception as error:  # one replica's failure is its answer
        return error
    return sink.answer.result()


class DeploymentBroadcastResponse(Generic[T]):
    """The answers of all replicas, in no particular order."""

    def __init__(self, call: BroadcastCall, sink: BroadcastSink) -> None:
        self._call, self._sink = call, sink

    @property
    def request_id(self) -> str:
        return self._call.request_id

    def results(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[T | BaseException]:
        """Wait in this thread for all of them; with `return_exceptions` an error stands in its replica's place.

        *Errors*: DeploymentUnavailableError without any replica; builtin TimeoutError after `timeout_s`; the first
        replica's error; RuntimeError inside an event loop.
        """
        if in_event_loop():
            raise RuntimeError(
                "Sync methods should not be called from within an `asyncio` event loop. Use "
                "`await response.results_async()` instead."
            )
        _check(timeout_s)
        done, _ = concurrent.futures.wait((self._sink.answers,), timeout_s)
        if not done:
            raise TimeoutError(_late(timeout_s))
        return self._open(return_exceptions)

    async def results_async(
        self, *, timeout_s: float | None = None, return_exceptions: bool = False
    ) -> list[T | BaseException]:
        """As `results`, inside an event loop."""
        _check(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await settled(self._sink.answers)
        except TimeoutError:
            raise TimeoutError(_late(timeout_s)) from None
        return self._open(return_exceptions)

    def cancel(self) -> None:
        if not self._sink.answers.done():
            self._call.cancel()
            self._sink.fail(RequestCancelledError(self._call.request_id))

    def _open(self, return_exceptions: bool) -> list[T | BaseException]:
        error = self._sink.answers.exception()
        if error is not None:
            raise fresh_error(error)
        opened: list[T | BaseException] = [_value_of(answer) for answer in self._sink.answers.result()]
        if not return_exceptions:
            for value, answer in zip(opened, self._sink.answers.result(), strict=True):
                if isinstance(answer, BaseException) and isinstance(value, BaseException):
                    raise value
        return opened

    def __repr__(self) -> str:
        state = "done" if self._sink.answers.done() else "waiting"
        return f"<DeploymentBroadcastResponse {self._call.key} [{state}] request_id={self.request_id}>"


def _value_of(answer: Received | BaseException) -> Any:  # Any: a value of the user's
    return fresh_error(answer) if isinstance(answer, BaseException) else load_value(answer)


def _check(timeout_s: float | None) -> None:
    if timeout_s is not None and timeout_s < 0:
        raise ValueError(f"timeout_s must not be negative, got {timeout_s}")


def _late(timeout_s: float | None) -> str:
    return f"not all replicas answered within {timeout_s:g} s; the broadcast goes on"
