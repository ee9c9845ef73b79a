"""Several applications that find each other by name: a builder with typed arguments, settings by user_config, models by
id, deployments of classes of other shapes, and what an operator's script asks.
"""

# mypy: disable-error-code="misc"
from __future__ import annotations

import abc
import dataclasses
import urllib.request
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

import serve_rt as serve
from serve_rt.api import session
from serve_rt.exceptions import RayServeException

T = TypeVar("T")


class Arguments(BaseModel):
    greeting: str
    replicas: int = 1


class Settings(BaseModel):
    loud: bool = False


class Model:
    def __init__(self, name: str) -> None:
        self.name = name


class Tenant(abc.ABC):
    """An ordinary abstract class; the deployment is made of its child."""

    def __init__(self, greeting: str) -> None:
        self.greeting, self.settings, self.loaded = greeting, Settings(), list[str]()

    def reconfigure(self, config: dict[str, Any]) -> None:
        self.settings = Settings(**config)

    @abc.abstractmethod
    async def answer(self, model: Model) -> str: ...

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> Model:
        self.loaded.append(model_id)
        return Model(model_id)

    async def __call__(self, request: Request) -> str:
        return await self.answer(await self.get_model(serve.get_multiplexed_model_id()))

    async def of(self, tenant: str) -> str:
        return await self.answer(await self.get_model(tenant))


class Greeter(Tenant):
    async def answer(self, model: Model) -> str:
        text = f"{self.greeting} {model.name}"
        return text.upper() if self.settings.loud else text


@serve.deployment
@dataclasses.dataclass
class Front:
    """Finds the other application when it is asked."""

    prefix: str = ">"

    async def __call__(self, request: Request) -> str:
        greeter = serve.get_app_handle("greeter")
        words = [await greeter.of.remote(name) for name in request.query_params["names"].split(",")]
        return self.prefix + " ".join(words)


class Constant(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    def __call__(self) -> T:
        return self.value


def build(arguments: Arguments) -> serve.Application:
    greeter = serve.deployment(Greeter).options(num_replicas=arguments.replicas, user_config={"loud": False})
    return greeter.bind(arguments.greeting)


def ask(path: str, **headers: str) -> str:
    request = urllib.request.Request(f"http://{session.current().identity.http_address}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    serve.start(http_options={"port": 0})
    targets = [
        serve.RunTarget(build(Arguments(greeting="hello")), "greeter", "/greeter"),
        serve.RunTarget(Front.bind(prefix="> "), "front", "/front"),
        serve.RunTarget(serve.deployment(Constant).bind(7), "seven", "/7"),
    ]
    print([handle.app_name for handle in serve.run_many(targets)], ask("/7"))
    print(ask("/greeter", serve_multiplexed_model_id="ann"), ask("/front?names=ann,bob"))
    loud = serve.deployment(Greeter).options(user_config={"loud": True})
    serve.run(loud.bind("hello"), name="greeter", route_prefix="/greeter")
    print(ask("/front?names=cy"), {name: str(one.status) for name, one in serve.status().applications.items()})
    try:
        serve.run(serve.deployment(Constant).bind(8), name="eight", route_prefix="/7")
    except RayServeException as error:
        print("refused", "/7 is being used" in str(error))
    serve.delete("seven")
    print(sorted(serve.status().applications))
