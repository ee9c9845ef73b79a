"""Batching and autoscaling, with options of both generations, asked by many threads at once."""

from __future__ import annotations

import json
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request

import serve_rt as serve
from serve_rt.api import session

warnings.simplefilter("ignore", DeprecationWarning)


@serve.deployment(
    ray_actor_options={"num_cpus": 0.1},
    max_concurrent_queries=32,
    autoscaling_config={
        "min_replicas": 1,
        "initial_replicas": 1,
        "max_replicas": 2,
        "target_num_ongoing_requests_per_replica": 10,
    },
)
class Squares:
    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.05)
    async def compute(self, numbers: list[int]) -> list[dict[str, int]]:
        return [{"square": number * number, "batch": len(numbers)} for number in numbers]

    async def __call__(self, request: Request) -> dict[str, int]:
        result: dict[str, int] = await self.compute(int(request.query_params["n"]))
        return result


app = Squares.bind()

if __name__ == "__main__":
    serve.start(http_options={"port": 0})
    serve.run(app, name="squares")
    address = session.current().identity.http_address

    def ask(number: int) -> dict[str, int]:
        with urllib.request.urlopen(f"http://{address}/?n={number}", timeout=20) as answer:
            found: dict[str, int] = json.load(answer)
            return found

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(32)))
    print([answer["square"] for answer in answers] == [number * number for number in range(32)])
    print(max(answer["batch"] for answer in answers) > 1)
