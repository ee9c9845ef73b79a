"""Tasks and an actor behind a deployment: words are counted by tasks, side by side, and the totals kept by an actor.

serve run serve_rt.examples.tasks:app
curl -X POST http://127.0.0.1:8000/ -H 'content-type: application/json' -d '["to be or not to be", "to see"]'
"""

from __future__ import annotations

import asyncio
from collections import Counter

from starlette.requests import Request

import serve_rt as serve


@serve.task(num_cpus=0.5)
def count(text: str) -> Counter[str]:
    return Counter(text.split())


@serve.actor(num_cpus=0.1, max_restarts=1)
class Totals:
    def __init__(self) -> None:
        self.words: Counter[str] = Counter()

    def add(self, words: Counter[str]) -> dict[str, int]:
        self.words += words
        return dict(self.words)


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Words:
    def __init__(self) -> None:
        # Of all replicas, and of those to come: it ends with `serve shutdown`.
        self.totals = Totals.options(name="totals", get_if_exists=True, lifetime="detached").remote()

    async def __call__(self, request: Request) -> dict[str, int]:
        counted = [count.remote(text) for text in await request.json()]
        added = [self.totals.add.remote(words) for words in counted]  # refs go on unopened
        totals: list[dict[str, int]] = await asyncio.gather(*added)
        return totals[-1]


app = Words.bind()
