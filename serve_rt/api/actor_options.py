"""`ray_actor_options`: what one replica needs of its node, in Ray's words, made into integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_rt.config.options import nearest
from serve_rt.errors import ConfigError
from serve_rt.model.resources import Resources

ALLOWED = (
    "accelerator_type",
    "gpu_memory",
    "memory",
    "num_cpus",
    "num_gpus",
    "resources",
    "runtime_env",
    "label_selector",
    "fallback_strategy",
)
_RUNTIME_ENV = ("env_vars", "working_dir")


def checked_actor_options(name: str, value: Any) -> Mapping[str, Any]:
    """*Errors*: TypeError when it is not a dict; ValueError for a key or amount that is not allowed."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dictionary, got {type(value).__name__}.")
    for key in value:
        if key not in ALLOWED:
            hint = nearest(key, ALLOWED)
            known = "" if hint.startswith("Known") else f" Known: {', '.join(sorted(ALLOWED))}."
            raise ValueError(f"Specifying '{key}' in ray_actor_options is not allowed. {hint}{known}")
    for key in ("resources", "label_selector"):
        if value.get(key) is not None and not isinstance(value[key], Mapping):
            raise TypeError(f"ray_actor_options: {key} must be a dictionary, got {type(value[key]).__name__}.")
    if value.get("fallback_strategy") is not None:
        raise ConfigError("ray_actor_options: fallback_strategy is not supported: use one label_selector.")
    _check_runtime_env(value.get("runtime_env") or {})
    resources_of(value)
    labels_of(value)
    return dict(value)


def _check_runtime_env(env: Any) -> None:
    if not isinstance(env, Mapping):
        raise TypeError(f"runtime_env must be a dictionary, got {type(env).__name__}.")
    for key in env:
        if key not in _RUNTIME_ENV:
            raise ConfigError(
                f"runtime_env[{key!r}] is not supported: install packages on the nodes beforehand; "
                f"supported are {', '.join(_RUNTIME_ENV)}."
            )
    variables = env.get("env_vars") or {}
    for key, value in variables.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"runtime_env env_vars must be strings, got {key!r}: {value!r}.")


def resources_of(options: Mapping[str, Any]) -> Resources:
    """A replica takes one CPU unless it says otherwise; that one is a hint."""
    cpus = options.get("num_cpus")
    custom = {str(key): _milli(f"resources[{key!r}]", value) for key, value in (options.get("resources") or {}).items()}
    return Resources(
        milli_cpu=1000 if cpus is None else _milli("num_cpus", cpus),
        memory_bytes=int(_amount("memory", options.get("memory") or 0)),
        milli_gpu=_milli("num_gpus", options.get("num_gpus") or 0),
        gpu_memory_bytes=int(_amount("gpu_memory", options.get("gpu_memory") or 0) * (1 << 20)),
        custom=custom,
        cpu_implied=cpus is None,
    )


def labels_of(options: Mapping[str, Any]) -> dict[str, str]:
    labels = dict(options.get("label_selector") or {})
    if options.get("accelerator_type"):
        labels["accelerator_type"] = str(options["accelerator_type"])
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"label_selector must map strings to strings, got {key!r}: {value!r}.")
    return labels


def _milli(name: str, value: Any) -> int:
    milli = round(_amount(name, value) * 1000)
    if value and milli == 0:
        raise ValueError(f"{name}={value} is below the smallest part, 0.001.")
    if name == "num_gpus" and milli > 1000 and milli % 1000:
        raise ValueError(f"num_gpus={value}: more than one GPU must be a whole number of them.")
    return milli


def _amount(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}.")
    return float(value)
