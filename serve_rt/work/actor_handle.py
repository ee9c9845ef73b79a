"""What programs hold of an actor: its handle, to be called and sent anywhere."""

from __future__ import annotations

from typing import Any, NoReturn

from serve_rt.handle.runtime import find_runtime
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.work.actor_call import ActorCall, ActorPlace, ActorSink, place_of
from serve_rt.work.ref import WorkRef


class ActorHandle:
    """An actor, to be called: `handle.method.remote(...)`. It can be sent anywhere, and is then the actor's name; the
    actor does not end with its handles (but see `lifetime`)."""

    def __init__(self, place: ActorPlace, methods: tuple[str, ...] | None = None) -> None:
        self._place = place
        self._methods = methods
        """None: only the actor knows."""

    @property
    def actor_name(self) -> str:
        return self._place.shown

    @property
    def app_name(self) -> str:
        """As `serve status` shows it."""
        return self._place.key.app

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._methods is not None and name not in self._methods:
            raise AttributeError(f"actor {self._place.shown} has no method {name!r}. It has: {list(self._methods)}")
        return ActorMethod(self._place, name)

    def __reduce__(self) -> tuple[Any, tuple[str, str, tuple[str, ...] | None]]:
        return (_handle, (self._place.key.app, self._place.shown, self._methods))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._place.key == self._place.key

    def __hash__(self) -> int:
        return hash(self._place.key)

    def __repr__(self) -> str:
        return f"<ActorHandle {self._place.shown} ({self._place.key.app})>"


class ActorMethod:
    def __init__(self, place: ActorPlace, name: str) -> None:
        self._place, self._name = place, name

    def remote(self, *args: Any, **kwargs: Any) -> WorkRef[Any]:
        """Call it and return at once. Calls of one process are run in the order they were made; an argument that is a
        ref is passed on when it is there. Any: methods are found by name.

        *Errors*: TypeError when an argument cannot be pickled. ActorDiedError comes with the ref.
        """
        runtime = find_runtime()
        if runtime is None:
            from serve_rt.work.deploying import runtime_here  # the first use of the cluster

            runtime = runtime_here()
        sink = ActorSink(self._place.shown)
        call = ActorCall(runtime, self._place, (self._name, *args), kwargs, sink)
        call.start()
        return WorkRef(call, sink, f"{self._place.shown}.{self._name}")

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError(f"the actor's method {self._name} cannot be called directly: use {self._name}.remote(...).")


def key_of(app: str) -> DeploymentKey:
    return DeploymentKey(AppName(app), DeploymentName("actor"))


def _handle(app: str, shown: str, methods: tuple[str, ...] | None) -> ActorHandle:
    return ActorHandle(place_of(key_of(app), shown), methods)
