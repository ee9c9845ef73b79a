"""Arrays through handles: batches of dataclasses, sync methods side by side, composition in every
shape, errors of an application's own, lambdas and classes that live in the script.
"""

# mypy: disable-error-code="misc"
from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import serve_rt as serve
from serve_rt.handle import DeploymentHandle

Array = np.ndarray[Any, Any]


@dataclasses.dataclass
class Sample:
    features: Array
    weight: float = 1.0


class Score(NamedTuple):
    label: int
    value: float


class ModelError(RuntimeError):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


def counted(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def inner(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return await method(self, *args, **kwargs)

    return inner


class Base:
    calls = 0

    def count(self) -> int:
        return self.calls


@serve.deployment(max_ongoing_requests=64)
class Net(Base):
    def __init__(self, width: int, then: Callable[[float], float]) -> None:
        self.weights = np.random.default_rng(0).random((width, 3))
        self.then = then
        self.sizes: list[int] = []

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.2)
    async def predict(self, samples: list[Sample]) -> list[Score]:
        self.sizes.append(len(samples))
        output = np.stack([one.features for one in samples]) @ self.weights
        return [Score(int(row.argmax()), self.then(float(row.max()))) for row in output]

    @counted
    async def twice(self, array: Array, *, bias: float = 0.0) -> Array:
        return array * 2 + bias

    def norm(self, array: Array) -> float:
        return float(np.linalg.norm(array))

    def fail(self) -> None:
        raise ModelError(7, detail="no such label") from KeyError("label")

    def largest_batch(self) -> int:
        return max(self.sizes)


@serve.deployment
class Ensemble:
    def __init__(self, nets: list[DeploymentHandle[Any]], named: dict[str, Any]) -> None:
        self.nets, self.named = nets, named

    async def gathered(self, array: Array) -> list[float]:
        results = await asyncio.gather(*(net.twice.remote(array, bias=index) for index, net in enumerate(self.nets)))
        return [float(result.sum()) for result in results]

    async def chained(self, array: Array) -> float:
        response: Any = array
        for net in self.nets:
            response = net.twice.remote(response)
        value = await self.named["deep"]["net"].norm.remote(response)
        return float(value)

    async def first(self) -> str:
        tasks = [asyncio.ensure_future(net.norm.remote(np.ones(4))) for net in self.nets]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return f"{done.pop().result():g}"

    async def caught(self) -> tuple[int, str]:
        try:
            await self.nets[0].fail.remote()
        except ModelError as error:
            return error.code, str(error)
        return 0, ""

    def by_thread(self, handle: DeploymentHandle[Any], array: Array) -> float:
        value: float = handle.norm.remote(array).result(timeout_s=10)
        return value


if __name__ == "__main__":
    shared = Net.options(name="shared").bind(4, lambda value: round(value, 3))
    app = Ensemble.bind([Net.bind(4, lambda value: value), shared], {"deep": {"net": shared}})
    handle = serve.run(app, name="scores", route_prefix=None)
    net = serve.get_deployment_handle("shared", "scores")
    scores = [net.predict.remote(Sample(np.full(4, number, dtype=np.float32))) for number in range(8)]
    print(all(type(score.result()) is Score for score in scores), net.largest_batch.remote().result() > 1)
    ones = np.ones(4)
    print(handle.gathered.remote(ones).result(), handle.chained.remote(ones).result(), handle.first.remote().result())
    print(handle.caught.remote().result(), handle.by_thread.remote(net, ones).result(), net.count.remote().result())
    try:
        net.fail.remote().result()
    except ModelError as error:
        print(error.code, "KeyError" in str(error.__cause__))

    async def many() -> float:
        norms: list[float] = await asyncio.gather(*(net.norm.remote(ones) for _ in range(50)))
        return sum(norms)

    print(asyncio.run(many()), asyncio.run(many()))
