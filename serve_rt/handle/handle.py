"""DeploymentHandle: a deployment as an object that can be called, from drivers and from inside replicas.

    handle = serve.get_app_handle("default")
    value = await handle.predict.remote(x)

Making one touches nothing; the first `.remote()` opens the routes. A handle can be pickled: it is then its name and
options, and works in whatever process it arrives. Next stop of a call: serve_rt.handle.call.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar, cast, overload

from serve_rt.handle.broadcast import BroadcastCall, BroadcastSink, DeploymentBroadcastResponse
from serve_rt.handle.call import Call, CallOptions, Sink
from serve_rt.handle.choosing import DispatchedCall, ReplicaChoice, ReplicaSelection
from serve_rt.handle.response import DeploymentResponse, ValueSink
from serve_rt.handle.runtime import HandleRuntime, current_runtime, find_runtime
from serve_rt.handle.stream import DeploymentResponseGenerator, ItemBuffer
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName

T = TypeVar("T")
_UNSET: Any = object()
_SERIALIZERS = ("cloudpickle", "pickle")


class DeploymentHandle(Generic[T]):
    """*Resources*: none of its own; the process's HandleRuntime holds the streams."""

    def __init__(
        self,
        deployment_name: str,
        app_name: str,
        options: CallOptions = CallOptions(),  # noqa: B008 - frozen
        runtime: HandleRuntime | None = None,
    ) -> None:
        self._key = DeploymentKey(AppName(app_name), DeploymentName(deployment_name))
        self._options = options
        self._runtime = runtime
        """Given by tests; else the process's runtime at the time of the call."""
        self._initialized = False

    # --- what it is

    @property
    def deployment_name(self) -> str:
        return self._key.deployment

    @property
    def app_name(self) -> str:
        return self._key.app

    @property
    def deployment_id(self) -> DeploymentKey:
        return self._key

    @property
    def handle_id(self) -> str:
        return f"{self._key.app}#{self._key.deployment}#{id(self):x}"

    @property
    def is_initialized(self) -> bool:
        """Whether it was used, or configured by `_init`."""
        return self._initialized

    def running_replicas_populated(self) -> bool:
        """Whether this process knows of a replica to send to."""
        runtime = self._runtime or find_runtime()
        return runtime is not None and runtime.replicas_of(self._key) > 0

    # --- calls

    @overload
    def options(
        self,
        *,
        stream: Literal[True],
        method_name: str = ...,
        multiplexed_model_id: str = ...,
        session_id: str = ...,
        use_new_handle_api: bool = ...,
        _prefer_local_routing: bool = ...,
        _by_reference: bool = ...,
        request_serialization: str = ...,
        response_serialization: str = ...,
    ) -> StreamingHandle[T]: ...
    @overload
    def options(
        self,
        *,
        stream: bool = ...,
        method_name: str = ...,
        multiplexed_model_id: str = ...,
        session_id: str = ...,
        use_new_handle_api: bool = ...,
        _prefer_local_routing: bool = ...,
        _by_reference: bool = ...,
        request_serialization: str = ...,
        response_serialization: str = ...,
    ) -> DeploymentHandle[T]: ...
    def options(
        self,
        *,
        method_name: str = _UNSET,
        multiplexed_model_id: str = _UNSET,
        session_id: str = _UNSET,
        stream: bool = _UNSET,
        use_new_handle_api: bool = _UNSET,
        _prefer_local_routing: bool = _UNSET,
        _by_reference: bool = _UNSET,
        request_serialization: str = _UNSET,
        response_serialization: str = _UNSET,
        **unknown: Any,
    ) -> DeploymentHandle[T]:
        """A handle whose calls differ in what is given; this one stays as it is.

        *Errors*: TypeError for an unknown option (naming the nearest) or a value of another type; ValueError.
        """
        if unknown:
            _refuse_unknown(next(iter(unknown)))
        if use_new_handle_api is not _UNSET:
            warnings.warn("`use_new_handle_api` has no effect: there is one handle API", DeprecationWarning, 2)
        if _prefer_local_routing is not _UNSET:
            warnings.warn("`_prefer_local_routing` has no effect: set it by placement", DeprecationWarning, 2)
        for name, given in (("request_", request_serialization), ("response_", response_serialization)):
            if given is not _UNSET and given not in _SERIALIZERS:
                raise ValueError(
                    f"{name}serialization={given!r} is not supported: use one of {', '.join(_SERIALIZERS)}"
                )
        changes: dict[str, Any] = {
            "method_name": method_name,
            "multiplexed_model_id": multiplexed_model_id,
            "session_id": session_id,
            "stream": stream,
        }
        given_ones = {key: value for key, value in changes.items() if value is not _UNSET}
        _check_types(given_ones)
        changed = replace(self._options, **given_ones)
        return DeploymentHandle(self._key.deployment, self._key.app, changed, self._runtime)

    def remote(self, *args: Any, **kwargs: Any) -> DeploymentResponse[Any]:
        """Start a call and return at once, in any thread and inside or outside of event loops.

        With `options(stream=True)` the result is a DeploymentResponseGenerator instead, and type checkers know. Any:
        methods are found by name at run time.

        *Errors*: TypeError when an argument cannot be pickled; NoClusterError when no cluster is to be found.
        """
        runtime = self._runtime or current_runtime()
        return self._begin(lambda sink: Call(runtime, self._key, self._options, args, kwargs, sink))

    def choose_replica(self, *_args: Any, **_kwargs: Any) -> ReplicaChoice:
        """Take a slot on a replica: `async with handle.choose_replica() as selection`.

        Arguments, with which Ray's custom routers choose, play no part; a multiplexed model id does.
        """
        return ReplicaChoice(self._runtime or current_runtime(), self._key, self._options)

    def dispatch(self, selection: ReplicaSelection, *args: Any, **kwargs: Any) -> DeploymentResponse[Any]:
        """As `remote`, to the chosen replica in the slot that was taken there; await it before the block is left.

        *Errors*: ValueError for another deployment's selection; RuntimeError for one that was used or given back; the
        response fails with ReplicaUnavailableError when the replica is gone.
        """
        runtime, choice = self._runtime or current_runtime(), selection._choice

        def make(sink: Sink) -> Call:
            call = DispatchedCall(runtime, choice, self._options, args, kwargs, sink)
            choice.use(self._key)  # behind the packing, which may fail: the slot is then still there
            return call

        return self._begin(make)

    def _begin(self, make: Callable[[Sink], Call]) -> DeploymentResponse[Any]:
        self._initialized = True
        if self._options.stream:
            buffer = ItemBuffer()
            call = make(buffer)
            call.start()
            return cast("DeploymentResponse[Any]", DeploymentResponseGenerator[Any](call, buffer))
        sink = ValueSink()
        call = make(sink)
        call.start()
        return DeploymentResponse(call, sink)

    def broadcast(self, method_name: str, *args: Any, **kwargs: Any) -> DeploymentBroadcastResponse[Any]:
        """Call `method_name` on every replica, whatever its load.

        *Errors*: TypeError when an argument cannot be pickled; others come with the results.
        """
        if not isinstance(method_name, str) or not method_name:
            raise TypeError(f"broadcast() takes the name of a method first, got {method_name!r}")
        sink = BroadcastSink()
        options = replace(self._options, method_name=method_name, stream=False)
        call = BroadcastCall(self._runtime or current_runtime(), self._key, options, args, kwargs, sink)
        call.start()
        return DeploymentBroadcastResponse(call, sink)

    def __getattr__(self, name: str) -> DeploymentHandle[T]:
        if name.startswith("__"):  # pickle, copy and typing ask for these: they are not methods of the deployment
            raise AttributeError(name)
        return self.options(method_name=name)

    def _init(self, **_options: Any) -> None:
        """Ray's way to configure a handle's router before its first use; there is nothing to configure here.

        *Errors*: RuntimeError when the handle was configured or used before.
        """
        if self._initialized:
            raise RuntimeError(f"{self!r} has already been initialized: `_init` comes once, before the first call")
        self._initialized = True

    def shutdown(self) -> None:
        """Nothing to do: streams belong to the process, not to one handle."""

    async def shutdown_async(self) -> None:
        """As `shutdown`."""

    # --- identity

    def __reduce__(self) -> tuple[Any, tuple[str, str, CallOptions]]:
        return (DeploymentHandle, (self._key.deployment, self._key.app, self._options))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeploymentHandle):
            return NotImplemented
        return self._key == other._key and self._options == other._options

    def __hash__(self) -> int:
        return hash((self._key, self._options))

    def __repr__(self) -> str:
        return f"DeploymentHandle(deployment='{self._key.deployment}')"


def _refuse_unknown(name: str) -> NoReturn:
    import difflib

    known = [one for one in inspect.signature(DeploymentHandle.options).parameters if one not in ("self", "unknown")]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(one for one in known if one[0] != '_')}."
    raise TypeError(f"DeploymentHandle.options() got an unexpected keyword argument {name!r}. {hint}")


def _check_types(given: dict[str, Any]) -> None:
    for name, value in given.items():
        kind = bool if name == "stream" else str
        if not isinstance(value, kind):
            raise TypeError(f"{name} of handle.options() must be a {kind.__name__}, got {value!r:.80}")
    if given.get("method_name") == "":
        raise ValueError("method_name of handle.options() is empty: name a method of the deployment")


if TYPE_CHECKING:

    class StreamingHandle(DeploymentHandle[T]):
        """What `options(stream=True)` is for type checkers; at run time it is a DeploymentHandle like any other."""

        def remote(self, *args: Any, **kwargs: Any) -> DeploymentResponseGenerator[Any]: ...  # type: ignore[override]  # Ray's API: the kind of answer is an option
        def dispatch(  # type: ignore[override]  # as above
            self, selection: ReplicaSelection, *args: Any, **kwargs: Any
        ) -> DeploymentResponseGenerator[Any]: ...
        def __getattr__(self, name: str) -> StreamingHandle[T]: ...
