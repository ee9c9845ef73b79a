"""Model composition as in every tutorial: a pipeline of models behind one ingress, defined in a script."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

from starlette.requests import Request

import serve_rt as serve
from serve_rt.api import session
from serve_rt.handle import DeploymentHandle, DeploymentResponse


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Summarizer:
    def __init__(self, words: int = 5) -> None:
        self.words = words

    def summarize(self, text: str) -> str:
        return " ".join(text.split()[: self.words])

    def reconfigure(self, config: dict[str, Any]) -> None:
        self.words = config["words"]


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})
class Translator:
    def __init__(self, summarizer: DeploymentHandle) -> None:  # type: ignore[type-arg]  # as people write it
        self.summarizer = summarizer

    def translate(self, text: str) -> str:
        return text.upper()

    async def __call__(self, http_request: Request) -> str:
        text: str = await http_request.json()
        summary: DeploymentResponse[str] = self.summarizer.summarize.remote(text)
        return self.translate(await summary)


if __name__ == "__main__":
    serve.start(http_options={"port": 0})
    app = Translator.bind(Summarizer.options(user_config={"words": 3}).bind())
    handle = serve.run(app, name="translate", route_prefix="/translate")
    url = f"http://{session.current().identity.http_address}/translate"
    request = urllib.request.Request(url, json.dumps("it was the best of times").encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        print(answer.read().decode())
    print(handle.translate.remote("by handle").result())
    assert sorted(serve.status().applications["translate"].deployments) == ["Summarizer", "Translator"]
    sys.exit(0)
