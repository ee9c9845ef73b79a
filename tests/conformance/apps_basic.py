"""Applications that say who they are and what reached them; they travel in the code snapshot, by name."""

from __future__ import annotations

import os
import threading
from typing import Any

from starlette.requests import Request

import serve_rt as serve
from serve_rt.context import current_request
from tests.conformance.asking import LIGHT


@serve.deployment(ray_actor_options=LIGHT)
class Inner:
    def __init__(self, bias: int = 0) -> None:
        self.bias = bias

    def add(self, number: int) -> int:
        return number + self.bias

    def who(self) -> dict[str, Any]:
        return who()


@serve.deployment(ray_actor_options=LIGHT)
class Outer:
    """The ingress of most applications."""

    def __init__(self, inner: Any = None, label: str = "") -> None:
        self.inner = inner
        self.label = label
        self.at_birth = serve.get_replica_context().deployment

    async def __call__(self, request: Request) -> dict[str, Any]:
        return {"label": self.label, "path": request.url.path, "root_path": request.scope["root_path"], **who()}

    def who(self) -> dict[str, Any]:
        return who() | {"born_as": self.at_birth, "is_me": serve.get_replica_context().servable_object is self}

    async def inner_who(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.inner.who.remote()
        return found

    def pid(self) -> int:
        return os.getpid()

    def get_label(self) -> str:
        return self.label

    def numbers(self) -> dict[str, Any]:
        return {"label": self.label, "max_ongoing": serve.get_replica_context().max_ongoing_requests}

    def env(self, name: str) -> str | None:
        return os.environ.get(name)

    def neighbour(self, deployment: str, app: str | None, number: int) -> Any:
        """In a thread: looking a name up may wait."""
        return serve.get_deployment_handle(deployment, app).add.remote(number).result(timeout_s=10)

    async def neighbour_on_the_loop(self, deployment: str, app: str | None, number: int) -> Any:
        return await serve.get_deployment_handle(deployment, app).add.remote(number)

    def app_handle(self, app: str) -> Any:
        return serve.get_app_handle(app).get_label.remote().result(timeout_s=10)

    def missing(self, deployment: str) -> None:
        serve.get_deployment_handle(deployment)

    async def request_context(self) -> dict[str, Any]:
        return request_context()

    def request_context_in_a_thread(self) -> dict[str, Any]:
        return request_context() | {"main_thread": threading.current_thread() is threading.main_thread()}


def who() -> dict[str, Any]:
    context = serve.get_replica_context()
    return {
        "app": context.app_name,
        "deployment": context.deployment,
        "tag": context.replica_tag,
        "id": str(context.replica_id),
        "version": context.code_version,
        "rank": context.rank.rank,
        "world_size": context.world_size,
        "pid": os.getpid(),
        "model": serve.get_multiplexed_model_id(),
        "trace": serve.get_trace_context(),
    }


def request_context() -> dict[str, Any]:
    request = current_request.get()
    assert request is not None
    return {"id": request.request_id, "app": request.app, "route": request.route}


@serve.deployment(ray_actor_options=LIGHT)
def function(request: Request | None = None) -> str:
    return "function" if request is None else f"function {request.method}"


@serve.deployment(ray_actor_options=LIGHT)
async def async_function(request: Request) -> dict[str, str]:
    return {"said": (await request.body()).decode()}


@serve.deployment(ray_actor_options=LIGHT, max_constructor_retry_count=1)
class Broken:
    def __init__(self) -> None:
        raise OSError("the weights are missing")


def outer_builder(args: dict[str, str]) -> serve.Application:
    made: serve.Application = Outer.bind(label=args["label"])
    return made


outer = Outer.bind(label="built")
