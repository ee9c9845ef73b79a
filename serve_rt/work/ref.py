"""What a task or an actor's method gives back at once: the result to come. And the call behind it, which may go again.

A ref is a DeploymentResponse: awaited from any loop, waited for with `result()`, cancelled, passed as an argument (its
bytes then go on unopened). `serve.get`, `serve.wait` and `serve.cancel` take both.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, overload

from serve_rt.errors import (
    DeploymentUnavailableError,
    NoClusterError,
    Outcome,
    ReplicaDiedError,
    RequestError,
    ServeException,
    UserCodeError,
    WorkerCrashedError,
)
from serve_rt.handle.buffers import Received
from serve_rt.handle.call import Call, CallOptions
from serve_rt.handle.response import DeploymentResponse, ValueSink, in_event_loop
from serve_rt.handle.runtime import HandleRuntime, find_runtime
from serve_rt.handle.serialization import load_error
from serve_rt.model.ids import DeploymentKey
from serve_rt.work.lending import lent
from serve_rt.work.options import TaskOptions

if TYPE_CHECKING:
    from serve_rt.routing import Exchange

T = TypeVar("T")
NEW_POOLS = 5
"""So many times a call looks for a pool that was there a moment ago, and makes it again."""
PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


class Place(Protocol):
    """Where calls go: a pool of workers, or an actor. On the runtime's loop."""

    key: DeploymentKey
    ready: bool

    async def opened(self, runtime: HandleRuntime) -> None: ...

    def forget(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """On a call that failed."""

    again: bool
    counts: bool = True
    """Against max_retries: its work may have begun."""


def verdict(error: BaseException, options: TaskOptions, lost: int, unplaced: int) -> Verdict:
    """Whether a task runs again. `lost`: how often it did because of a loss or an exception; `unplaced`: how often it
    found no pool. Pure, but for the user's exception, which is opened to be looked at."""
    if isinstance(error, DeploymentUnavailableError):
        return Verdict(unplaced < NEW_POOLS, counts=False)
    left = lost < options.max_retries
    if isinstance(error, UserCodeError):
        return Verdict(left and options.retry_exceptions is not False and options.wants_again(_users(error)))
    if isinstance(error, ReplicaDiedError):
        started = error.outcome is not Outcome.NOT_STARTED
        return Verdict(left or not started, counts=started)
    return Verdict(again=False)


def _users(error: UserCodeError) -> BaseException:
    return load_error(error.pickled, error.message, error.traceback)


class WorkSink(ValueSink):
    """Asks the call before it fails."""

    def __init__(self) -> None:
        super().__init__()
        self.call: TaskCall | None = None

    def fail(self, error: BaseException) -> None:
        if self.call is not None and not self.answer.done():
            if isinstance(error, RequestError) and self.call.goes_again(error):
                self._data = b""
                return
            error = self.call.told(error)
        super().fail(error)

    def _settle(self, data: Received) -> None:
        super()._settle(data)
        if self.call is not None:
            self.call.done()


class TaskCall(Call):
    """One call of a task: waits for its pool, and runs again where that is allowed."""

    def __init__(
        self,
        runtime: HandleRuntime,
        place: Place,
        name: str,
        options: TaskOptions,
        method: CallOptions,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        sink: WorkSink,
    ) -> None:
        super().__init__(runtime, place.key, method, args, kwargs, sink)
        sink.call = self
        self.name = name
        self._place = place
        self._task_options = options
        self._kept = self._body
        self._lost = self._unplaced = 0

    def _open_at_once(self) -> Exchange | None:
        return super()._open_at_once() if self._place.ready else None

    async def _open(self) -> Exchange:
        if not self._place.ready:
            await self._place.opened(self._runtime)
        return await super()._open()

    async def _pack(self) -> None:
        await super()._pack()
        self._kept = self._body

    # --- for the sink, on the loop --------------------------------------------------------------------------------

    def goes_again(self, error: RequestError) -> bool:
        said = verdict(error, self._task_options, self._lost, self._unplaced)
        if not said.again or self._cancelled:
            self._kept = b""
            return False
        if said.counts:
            self._lost += 1
        else:
            self._unplaced += 1
            self._place.forget()
        pause_s = min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (self._lost + self._unplaced))
        # Not from here: the step that failed is still on its way out.
        asyncio.get_running_loop().call_later(pause_s, self._again)
        return True

    def done(self) -> None:
        """The arguments need not be kept any more: the ref is kept for as long as its holder likes."""
        self._kept = b""

    def _again(self) -> None:
        if find_runtime() is not self._runtime:  # what it would open now nobody would close
            self._sink.fail(NoClusterError(f"the cluster was left before task {self.name} had run"))
            return
        self._body, self._exchange, self._task = self._kept, None, None
        self._begin()

    def told(self, error: BaseException) -> BaseException:
        """The error in the words of tasks."""
        if not isinstance(error, ReplicaDiedError) or isinstance(error, WorkerCrashedError):
            return error
        runs, most = self._lost + 1, self._task_options.max_retries
        message = (
            f"The worker of task {self.name} died while it had it (the work: {error.outcome.value}); it was sent "
            f"{runs} time{'s' if runs > 1 else ''}, max_retries={most} allows no more. See the worker's log: "
            f"`serve logs {self.key.app}`."
        )
        return WorkerCrashedError(error.replica_id, error.outcome, message)


class WorkRef(DeploymentResponse[T]):
    """The result of a task, or of an actor's method."""

    def __init__(self, call: Call, sink: ValueSink, name: str) -> None:
        super().__init__(call, sink)
        self._name = name

    async def _wait(self) -> None:
        with lent():
            await super()._wait()

    def result(self, *, timeout_s: float | None = None, _skip_asyncio_check: bool = False) -> T:
        """Wait in this thread. *Errors*: builtin TimeoutError after `timeout_s`; RuntimeError inside an event loop."""
        if self._sink.answer.done():
            return super().result(timeout_s=timeout_s, _skip_asyncio_check=_skip_asyncio_check)
        with lent():
            return super().result(timeout_s=timeout_s, _skip_asyncio_check=_skip_asyncio_check)

    def __reduce__(self) -> NoReturn:
        raise ServeException(
            f"the ref of {self._name} cannot be put into another object: there is no object store to ask for it. "
            "Pass it as an argument of its own, or pass its value: serve.get(ref), `await ref`."
        )

    def __repr__(self) -> str:
        state = "done" if self._sink.answer.done() else "waiting"
        return f"<WorkRef {self._name} [{state}] request_id={self.request_id}>"


# --- serve.get, serve.wait, serve.cancel --------------------------------------------------------------------------


@overload
def get(refs: DeploymentResponse[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[DeploymentResponse[T]], *, timeout: float | None = None) -> list[T]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a ref, or the values of a list of them in its order; waits in this thread.

    *Errors*: what the task raised; TimeoutError after `timeout` seconds, the work goes on; RuntimeError inside an event
    loop: there `await ref`.
    """
    if not isinstance(refs, list | tuple):
        return _checked(refs).result(timeout_s=timeout)
    every = [_checked(ref) for ref in refs]
    if any(not ref.raw_answer().done() for ref in every):
        _refuse_loop("serve.get(refs)", "await asyncio.gather(*refs)")
        with lent():
            _, late = concurrent.futures.wait([ref.raw_answer() for ref in every], timeout)
        if late:
            raise TimeoutError(f"{len(late)} of {len(every)} results did not arrive within {timeout:g} s; they go on")
    return [ref.result(_skip_asyncio_check=True) for ref in every]


def wait(
    refs: Sequence[DeploymentResponse[Any]], *, num_returns: int = 1, timeout: float | None = None
) -> tuple[list[DeploymentResponse[Any]], list[DeploymentResponse[Any]]]:
    """(done, not done): returns when `num_returns` of them have a result or an error, or after `timeout` seconds. The
    first list has at most `num_returns`; both are in the order given.

    *Errors*: ValueError for a ref that is given twice or a number that is not from 1 to all of them.
    """
    every = [_checked(ref) for ref in refs]
    if len({id(ref) for ref in every}) < len(every):
        raise ValueError("serve.wait(refs): the same ref is given twice.")
    if not 1 <= num_returns <= len(every):
        raise ValueError(f"serve.wait(refs): num_returns={num_returns} must be from 1 to {len(every)}, their number.")
    if sum(ref.raw_answer().done() for ref in every) < num_returns and timeout != 0:
        _refuse_loop("serve.wait(refs)", "asyncio.wait")
        with lent():
            _wait_for(every, num_returns, timeout)
    done = [ref for ref in every if ref.raw_answer().done()][:num_returns]
    chosen = {id(ref) for ref in done}
    return done, [ref for ref in every if id(ref) not in chosen]


def _wait_for(refs: list[DeploymentResponse[Any]], count: int, timeout: float | None) -> None:
    import threading

    enough = threading.Event()
    left, lock = [count], threading.Lock()

    def one_more(_: object) -> None:
        with lock:
            left[0] -= 1
            if left[0] <= 0:
                enough.set()

    for ref in refs:
        ref.raw_answer().add_done_callback(one_more)
    enough.wait(timeout)


def cancel(ref: DeploymentResponse[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Best effort: one that waits is dropped; a coroutine that runs sees CancelledError; a plain function goes on until
    it asks `serve.cancelled()`. Either way the ref raises RequestCancelledError, and what it called is cancelled too.

    *Errors*: ValueError for `force=True`.
    """
    if force:
        raise ValueError(
            "force=True is not supported: a plain function asks serve.cancelled(), serve.kill ends an actor"
        )
    _checked(ref).cancel()


def _checked(ref: Any) -> DeploymentResponse[Any]:
    if isinstance(ref, DeploymentResponse):
        return ref
    raise TypeError(f"expected what .remote() of a task, an actor's method or a handle gave, got {ref!r:.100}.")


def _refuse_loop(what: str, instead: str) -> None:
    if in_event_loop():
        raise RuntimeError(f"{what} should not be called from within an `asyncio` event loop. Use `{instead}` instead.")
