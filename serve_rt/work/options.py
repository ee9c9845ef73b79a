"""What `@serve.task` and `@serve.actor` take, checked when it is given: Ray's names where Ray has them.

Pure. What a process needs of its node is checked as `ray_actor_options` of deployments are. Next stop: `pool` for
tasks, `actor` for actors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve_rt.api.actor_options import checked_actor_options, labels_of, resources_of
from serve_rt.config.naming import UnknownOptionError, refuse_unknown
from serve_rt.errors import ConfigError
from serve_rt.model.resources import Resources

DEFAULT_MAX_RETRIES = 3
NEEDS = (
    "num_cpus", "num_gpus", "gpu_memory", "memory", "resources", "accelerator_type", "label_selector", "runtime_env",
)  # fmt: skip
TASK_ONLY = ("max_retries", "retry_exceptions")
ACTOR_ONLY = ("name", "get_if_exists", "lifetime", "max_concurrency", "max_restarts")
NOT_SUPPORTED = {
    "num_returns": "a call has one result: return a tuple, or use a deployment's method with options(stream=True)",
    "scheduling_strategy": "use label_selector",
    "max_calls": "a worker process ends when it was idle for a while",
    "max_task_retries": "a method of an actor runs at most once; ask again where that is safe",
    "max_pending_calls": "calls wait with their caller",
    "concurrency_groups": "use max_concurrency, or several actors",
    "namespace": "names are the cluster's: put the namespace into the name",
    "object_store_memory": "there is no object store: use memory",
    "placement_group": "use label_selector",
}


@dataclass(frozen=True)
class Needs:
    """Of a process: two tasks with the same needs and the same code share workers."""

    resources: Resources
    labels: Mapping[str, str]
    env_vars: Mapping[str, str]

    @property
    def shown(self) -> str:
        """
        >>> Needs(Resources(milli_cpu=500, milli_gpu=1000), {}, {}).shown
        '0.5cpu-1gpu'
        """
        parts = [f"{self.resources.milli_cpu / 1000:g}cpu"]
        if self.resources.milli_gpu:
            parts.append(f"{self.resources.milli_gpu / 1000:g}gpu")
        return "-".join(parts)


@dataclass(frozen=True)
class TaskOptions:
    needs: Needs
    max_retries: int = DEFAULT_MAX_RETRIES
    """How often a task may run again after its worker was lost; 0: it runs at most once."""
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    """Which exceptions of the function itself are a reason to run it again."""

    def wants_again(self, error: BaseException) -> bool:
        if isinstance(self.retry_exceptions, bool):
            return self.retry_exceptions
        return isinstance(error, self.retry_exceptions)


@dataclass(frozen=True)
class ActorOptions:
    needs: Needs
    name: str | None = None
    get_if_exists: bool = False
    detached: bool = False
    max_concurrency: int | None = None
    """None: as the class is, one at a time where all its methods are plain."""
    max_restarts: int = 0


def task_options(given: Mapping[str, Any]) -> TaskOptions:
    """*Errors*: TypeError or ValueError naming the option, the value and what is allowed."""
    _refuse("@serve.task", given, (*NEEDS, *TASK_ONLY))
    options = TaskOptions(_needs(given))
    if given.get("max_retries") is not None:
        options = replace(options, max_retries=_integer("max_retries", given["max_retries"], least=0))
    if given.get("retry_exceptions") is not None:
        options = replace(options, retry_exceptions=_exceptions(given["retry_exceptions"]))
    return options


def actor_options(given: Mapping[str, Any]) -> ActorOptions:
    """*Errors*: as `task_options`."""
    _refuse("@serve.actor", given, (*NEEDS, *ACTOR_ONLY))
    name, lifetime = given.get("name"), given.get("lifetime")
    if name is not None:
        check_actor_name(name)
    if lifetime not in (None, "detached", "non_detached"):
        raise ValueError(f"lifetime must be 'detached', 'non_detached' or None, got {lifetime!r}.")
    if given.get("get_if_exists") and name is None:
        raise ValueError("get_if_exists=True needs the actor's name: options(name=..., get_if_exists=True).")
    return ActorOptions(
        _needs(given),
        name=name,
        get_if_exists=bool(given.get("get_if_exists")),
        detached=lifetime == "detached",
        max_concurrency=_optional("max_concurrency", given, None, least=1),
        max_restarts=_optional("max_restarts", given, 0, least=-1) or 0,
    )


def check_actor_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"an actor's name must be a string, got {type(name).__name__}.")
    if not name or not name.isprintable() or "#" in name or "/" in name or len(name) > 150:
        raise ValueError(f"the actor name {name!r} must have 1 to 150 printable characters without '#' and '/'.")


def _needs(given: Mapping[str, Any]) -> Needs:
    asked = {name: given[name] for name in NEEDS if given.get(name) is not None}
    checked_actor_options("options", asked)
    env = asked.get("runtime_env") or {}
    if env.get("working_dir"):
        raise ConfigError("runtime_env['working_dir'] is the whole program's: it cannot differ for a task or an actor.")
    return Needs(resources_of(asked), labels_of(asked), dict(env.get("env_vars") or {}))


def _refuse(what: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name, value in given.items():
        if name in NOT_SUPPORTED and name not in known:
            if value is None or (name == "num_returns" and value == 1):
                continue
            raise UnknownOptionError(f"`{name}` is not supported by {what}: {NOT_SUPPORTED[name]}.")
    refuse_unknown(what, [name for name in given if name not in NOT_SUPPORTED], known)


def _integer(name: str, value: Any, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    return value


def _exceptions(value: Any) -> bool | tuple[type[BaseException], ...]:
    if isinstance(value, bool):
        return value
    kinds = tuple(value) if isinstance(value, list | tuple) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"retry_exceptions must be True, False or a list of exception types, got {value!r}.")
    return kinds


def _optional(name: str, given: Mapping[str, Any], default: int | None, *, least: int) -> int | None:
    value = given.get(name)
    return default if value is None else _integer(name, value, least=least)
