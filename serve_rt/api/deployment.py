"""`@serve.deployment` and `.bind()`: a class or function with options, and with its constructor's arguments.

Both are plain values until `serve.run`: nothing is pickled, checked against a cluster or started here. Next stop:
serve_rt.api.graph.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, overload

from serve_rt.api.options import Given, check_together, clean
from serve_rt.config.options import AutoscalingConfig, BackpressureConfig, GuardConfig, LoggingConfig
from serve_rt.model.spec import DEFAULT_MAX_ONGOING_REQUESTS

DEFAULT: Any = type("DEFAULT", (), {"__repr__": lambda self: "DEFAULT.VALUE"})()
"""Not given; None has a meaning of its own for some options."""
_TOKEN = object()
_OF_RAY_1 = {
    "deploy": "bind and run it, `serve.run(Model.bind(...), name='model', route_prefix='/model')`",
    "get_handle": "serve.run gives a handle, and so does serve.get_deployment_handle(deployment, app_name)",
    "delete": "serve.delete(app_name) deletes its application",
    "url": "its application is at the route_prefix given to serve.run",
    "remote": "bind and run it, `handle = serve.run(Model.bind(...))`, then `handle.remote(...)`",
}
"""What deployments had in Ray 1, or what handles have, and what to do instead."""

if "starlette" in sys.modules:  # after `import starlette` programs name starlette.requests.Request, which Ray imports
    import starlette.requests  # noqa: F401


class Application:
    """A deployment with its arguments, which may be other applications: what `serve.run` takes."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    def __repr__(self) -> str:
        return f"Application({self.deployment.name})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} was found inside an object that cannot be searched. Pass applications to .bind() directly or in "
            "lists, tuples, sets and dicts."
        )


class Deployment:
    """Made by `@serve.deployment`, changed by `.options()`, which gives a copy."""

    def __init__(
        self,
        func_or_class: Callable[..., Any],
        given: Given,
        init_args: tuple[Any, ...] = (),
        init_kwargs: Mapping[str, Any] | None = None,
        *,
        _token: object = None,
    ) -> None:
        if _token is not _TOKEN:
            raise RuntimeError("The Deployment constructor should not be called directly. Use `@serve.deployment`.")
        self.func_or_class = func_or_class
        self.given = dict(given)
        self.init_args = init_args
        self.init_kwargs = dict(init_kwargs or {})

    @property
    def name(self) -> str:
        own_name = getattr(self.func_or_class, "__name__", type(self.func_or_class).__name__)
        return str(self.given.get("name") or own_name)

    @property
    def version(self) -> None:
        """Computed when the application is deployed."""
        return None

    @property
    def num_replicas(self) -> int:
        replicas = self.given.get("num_replicas")
        return replicas if isinstance(replicas, int) else 1

    @property
    def user_config(self) -> Any:
        return self.given.get("user_config")

    @property
    def max_ongoing_requests(self) -> int:
        limit: int = self.given.get("max_ongoing_requests", DEFAULT_MAX_ONGOING_REQUESTS)
        return limit

    @property
    def max_queued_requests(self) -> int:
        limit: int = self.given.get("max_queued_requests", -1)
        return limit

    @property
    def backpressure_config(self) -> BackpressureConfig:
        return self.given.get("backpressure_config") or BackpressureConfig()

    @property
    def ray_actor_options(self) -> dict[str, Any]:
        return {"num_cpus": 1, **(self.given.get("ray_actor_options") or {})}

    @property
    def logging_config(self) -> LoggingConfig | None:
        return self.given.get("logging_config")

    def set_logging_config(self, logging_config: LoggingConfig | dict[str, Any]) -> None:
        self.given.update(clean(str(self), {"logging_config": logging_config}))

    @property
    def is_class(self) -> bool:
        return inspect.isclass(self.func_or_class)

    def bind(self, *args: Any, **kwargs: Any) -> Application:
        """The deployment with its constructor's arguments; other applications among them become handles.

        *Errors*: ValueError for a function deployment with arguments.
        """
        if (args or kwargs) and not self.is_class:
            raise ValueError("init_args not supported for function deployments.")
        return Application(Deployment(self.func_or_class, self.given, args, kwargs, _token=_TOKEN))

    def options(self, func_or_class: Callable[..., Any] | None = None, **options: Any) -> Deployment:
        """A copy with other options; takes all that `@serve.deployment` takes.

        *Errors*: as `@serve.deployment`.
        """
        if func_or_class is not None:
            _check_target(func_or_class)
        internal = {"_init_args", "_init_kwargs", "_internal"}
        args = options.get("_init_args", self.init_args)
        kwargs = options.get("_init_kwargs", self.init_kwargs)
        changes = _given({name: value for name, value in options.items() if name not in internal})
        given = self.given
        if isinstance(changes.get("num_replicas"), int) and "autoscaling_config" not in changes:
            given = {name: value for name, value in given.items() if name != "autoscaling_config"}
        elif changes.get("autoscaling_config") is not None and "num_replicas" not in changes:
            given = {name: value for name, value in given.items() if name != "num_replicas"}
        merged = {**given, **changes}
        check_together(merged)
        return Deployment(
            self.func_or_class if func_or_class is None else func_or_class, merged, args, kwargs, _token=_TOKEN
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name in _OF_RAY_1:
            raise AttributeError(f"{self} has no {name!r}: {_OF_RAY_1[name]}.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise RuntimeError(
            "Deployments cannot be constructed directly. Use `deployment.bind()` and `serve.run()` instead."
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Deployment):
            return NotImplemented
        mine = (self.name, self.func_or_class, self.given, self.init_args, self.init_kwargs)
        return mine == (other.name, other.func_or_class, other.given, other.init_args, other.init_kwargs)

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return f"Deployment(name={self.name})"

    __repr__ = __str__


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return clean("@serve.deployment", {name: value for name, value in options.items() if value is not DEFAULT})


@overload
def deployment(_func_or_class: Callable[..., Any], /) -> Deployment: ...
@overload
def deployment(
    _func_or_class: None = None,
    name: str = ...,
    version: str | None = ...,
    num_replicas: int | str | None = ...,
    ray_actor_options: dict[str, Any] | None = ...,
    placement_group_bundles: Any = ...,
    placement_group_strategy: Any = ...,
    placement_group_bundle_label_selector: Any = ...,
    max_replicas_per_node: int | None = ...,
    user_config: Any = ...,
    max_ongoing_requests: int = ...,
    max_queued_requests: int = ...,
    backpressure_config: BackpressureConfig | dict[str, Any] | None = ...,
    autoscaling_config: AutoscalingConfig | dict[str, Any] | None = ...,
    graceful_shutdown_wait_loop_s: float = ...,
    graceful_shutdown_timeout_s: float = ...,
    health_check_period_s: float = ...,
    health_check_timeout_s: float = ...,
    logging_config: LoggingConfig | dict[str, Any] | None = ...,
    request_router_config: Any = ...,
    max_constructor_retry_count: int = ...,
    gang_scheduling_config: Any = ...,
    deployment_actors: Any = ...,
    rolling_update_percentage: float = ...,
    max_surge_percent: int = ...,
    *,
    max_concurrent_queries: int = ...,
    route_prefix: str | None = ...,
    retry_safe: bool | None = ...,
    startup_timeout_s: float = ...,
    stuck_timeout_s: float = ...,
    progress_deadline_s: float = ...,
    max_unavailable: int = ...,
    guard_config: GuardConfig | dict[str, Any] | None = ...,
    health_check_failure_threshold: int = ...,
) -> Callable[[Callable[..., Any]], Deployment]: ...
def deployment(_func_or_class: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Any:
    """Make a class or function a deployment. Defaults are those of serve_rt.model.spec.DeploymentOptions.

    *Errors*: TypeError or ValueError as Ray's for a bad value; an unknown name is answered with the nearest known one.
    """
    if args:
        raise TypeError("@serve.deployment takes its options by name: @serve.deployment(num_replicas=2)")
    given = _given(options)
    check_together(given)

    def decorate(func_or_class: Callable[..., Any]) -> Deployment:
        _check_target(func_or_class)
        return Deployment(func_or_class, given, _token=_TOKEN)

    return decorate if _func_or_class is None else decorate(_func_or_class)


def _check_target(func_or_class: object) -> None:
    """*Errors*: TypeError."""
    if isinstance(func_or_class, Deployment):
        raise TypeError(
            f"@serve.deployment must be called on a class or function. {func_or_class} is a deployment already: "
            "use its .options(...) to change it."
        )
    if not callable(func_or_class):
        raise TypeError(
            "@serve.deployment must be called on a class or function, got "
            f"{type(func_or_class).__name__}: {func_or_class!r:.100}. Options are given by name."
        )
