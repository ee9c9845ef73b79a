"""As programs were written for Ray 2.6: old names of handles and options, a route prefix in the decorator; and a
notebook that defines its ingress a second time.
"""

# mypy: disable-error-code="misc, attr-defined"
import asyncio
import json
import urllib.request
import warnings
from typing import Any

import starlette
from fastapi import FastAPI

import serve_rt as serve
from serve_rt.api import session

warnings.simplefilter("ignore", DeprecationWarning)
from serve_rt.handle import RayServeDeploymentHandle  # noqa: E402

app = FastAPI()


@serve.deployment
class Adder:
    def __init__(self, increment: int) -> None:
        self.increment = increment

    def add(self, number: int) -> int:
        return number + self.increment


@serve.deployment
def average(*numbers: float) -> float:
    return sum(numbers) / len(numbers)


@serve.deployment
class Audit:
    def __call__(self, path: str) -> str:
        return path


@serve.deployment(route_prefix="/old", max_concurrent_queries=3)
class Ingress:
    def __init__(
        self, one: RayServeDeploymentHandle[Any], ten: RayServeDeploymentHandle[Any], mean: Any, audit: Any
    ) -> None:
        self.one, self.ten, self.mean, self.audit = one, ten, mean, audit

    async def __call__(self, request: starlette.requests.Request) -> dict[str, object]:
        number = (await request.json())["number"]
        first, second = await asyncio.gather(self.one.add.remote(number), self.ten.add.remote(number))
        return {
            "gathered": [first, second],
            "mean": await self.mean.remote(self.one.add.remote(number), self.ten.add.remote(number)),
            "audit": await self.audit.remote(request.url.path),
        }


def ask(path: str, body: object) -> object:
    url = f"http://{session.current().identity.http_address}{path}"
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def cell(answer: str) -> Any:
    """A notebook's cell: run twice it defines one class two times on an application of an earlier cell."""

    @serve.deployment
    @serve.ingress(app)
    class Notebook:
        @app.post("/")
        def say(self) -> str:
            return answer

    return Notebook.bind()


if __name__ == "__main__":
    serve.start(http_options={"port": 0})
    serve.run(Ingress.bind(Adder.bind(1), Adder.bind(10), average.bind(), Audit.bind()), name="old")
    print(ask("/old", {"number": 5}))
    for answer in ("first", "second"):
        serve.run(cell(answer), name="notebook", route_prefix="/notebook")
        print(ask("/notebook/", None))
