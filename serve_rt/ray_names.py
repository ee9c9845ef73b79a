"""Names of Ray Serve that have no counterpart here, each with what to do instead.

A program whose import was changed meets them as a submodule (`from serve_rt.dag import InputNode`), as a name of one
(`from serve_rt.schema import ServeDeploySchema`) or as a function of the face (`serve.get_deployment`). Read only when
one of them was asked for. Options that are not supported have their own table, in serve_rt.api.options.
"""

from __future__ import annotations

from typing import NoReturn

_GRAPHS = (
    "deployment graphs (InputNode, DAGDriver, http_adapters) were removed from Ray Serve too: bind the deployments "
    "into an ingress (`Ingress.bind(Model.bind())`) and call them there: `await self.model.predict.remote(x)`"
)
_ROUTERS = "routers cannot be replaced: requests go to the less loaded of two random replicas"
_TASKS = "there are no consumers of a broker: take from the queue in an asyncio task of a deployment's own"
_GRPC = "there is no gRPC ingress: serve HTTP, or call the deployment with a handle"
_CONFIG = "a configuration file is checked by `serve deploy`, and what was deployed is shown by `serve config`"

MODULES = {
    "dag": _GRAPHS,
    "drivers": _GRAPHS,
    "deployment_graph": _GRAPHS,
    "http_adapters": "take the starlette Request in the deployment: `await request.json()`",
    "request_router": _ROUTERS,
    "experimental": _ROUTERS,
    "grpc_util": _GRPC,
    "generated": _GRPC,
    "task_consumer": _TASKS,
    "task_processor": _TASKS,
    "taskiq_task_processor": _TASKS,
    "async_inference_autoscaling_policy": _TASKS,
    "gang": "start the members as separate deployments and pass handles",
    "llm": "run the engine in a deployment of your own, with FastAPI routes for the protocol its clients speak",
    "gradio_integrations": "build the Gradio app in a function and give it to @serve.ingress(function)",
    "air_integrations": "load the checkpoint in the deployment's constructor",
    "deployment": "Deployment and Application are names of serve_rt itself",
}
"""Submodules of ray.serve."""

NAMES = {
    "": {
        "get_deployment": "use serve.get_deployment_handle(name, app_name) or serve.get_app_handle(app_name)",
        "list_deployments": "use serve.status().applications",
        "remote": "use @serve.task on a function and @serve.actor on a class",
        "put": "there is no object store: pass the value, or the ref of the task that makes it",
        "init": "use serve.start(), or nothing: serve.run and the first task find or start the cluster",
        "connect": "serve.run and the others find the running cluster by themselves",
        "build": "use `serve build module:app -o config.yaml`",
    },
    "config": {
        "GangSchedulingConfig": MODULES["gang"],
        "DeploymentActorConfig": "make it a deployment of its own and pass its handle",
    },
    "schema": dict.fromkeys(
        ("ServeDeploySchema", "ServeApplicationSchema", "DeploymentSchema", "RayActorOptionsSchema"), _CONFIG
    ),
    "context": {"_get_internal_replica_context": "use serve.get_replica_context()"},
}
"""By submodule; "" is `serve` itself."""


def instead_of(name: str, module: str = "") -> str:
    """What to do instead of a name of Ray's, as the end of a sentence; "" for one that is not Ray's."""
    known = NAMES.get(module, {}).get(name, "")
    return f": {known}" if known else ""


def refuse_module(name: str) -> None:
    """*Errors*: ModuleNotFoundError for a submodule of ray.serve that is not here, saying what to do instead."""
    own = name.partition(".")[2].partition(".")[0]
    if own in MODULES:
        raise ModuleNotFoundError(f"serve_rt has no module {own!r}: {MODULES[own]}.", name=name)


def refuse_name(module: str, name: str) -> NoReturn:
    """For a submodule's `__getattr__`: Python drops the words of an AttributeError in `from module import name`.

    *Errors*: ImportError for a name of Ray's that is not here; AttributeError for any other.
    """
    instead = instead_of(name, module.partition(".")[2])
    if instead:
        raise ImportError(f"{module} has no {name}{instead}.", name=module)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


_NO_RAY = (
    "there is no Ray here: `import serve_rt as serve` takes the place of `from ray import serve`. @ray.remote is "
    "@serve.task on a function and @serve.actor on a class; serve.get, wait, cancel, kill and get_actor are Ray's."
)
_AWAITED_TWICE = (
    "if this is what a handle call gave: `await handle.remote()` is the result itself, where Ray 2.6 gave an object "
    "ref to be awaited again."
)
_HINTS = (
    (ModuleNotFoundError, "No module named 'ray'", _NO_RAY),
    (TypeError, "can't be used in 'await' expression", _AWAITED_TWICE),
)
"""Type, words in the message, what a program that was written for Ray should know."""


def advise(error: BaseException) -> None:
    """Add to what user code raised what a program that was written for Ray should know."""
    for kind, words, hint in _HINTS:
        if isinstance(error, kind) and words in str(error) and hint not in getattr(error, "__notes__", ()):
            error.add_note(hint)
