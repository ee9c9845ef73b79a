"""FastAPI, pydantic and streamed tokens: an ingress in front of a model that generates text."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import serve_rt as serve
from serve_rt.api import session
from serve_rt.handle import DeploymentHandle, DeploymentResponseGenerator

logger = logging.getLogger("ray.serve")
fastapi_app = FastAPI()


class Prompt(BaseModel):
    text: str
    max_tokens: int = 3


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Model:
    async def generate(self, text: str, max_tokens: int) -> AsyncGenerator[str, None]:
        for word in (text.split() * max_tokens)[:max_tokens]:
            yield word
            await asyncio.sleep(0)


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
@serve.ingress(fastapi_app)
class Chat:
    def __init__(self, model: DeploymentHandle[Any]) -> None:
        self.model = model.options(stream=True)

    @fastapi_app.post("/generate")
    def generate(self, prompt: Prompt) -> StreamingResponse:
        logger.info("prompt %r", prompt.text)
        words: Any = self.model.generate.remote(prompt.text, prompt.max_tokens)
        assert isinstance(words, DeploymentResponseGenerator)
        return StreamingResponse(self.lines(words), media_type="text/plain")

    async def lines(self, words: DeploymentResponseGenerator[str]) -> AsyncGenerator[str, None]:
        async for word in words:
            yield word + "\n"


def build(args: dict[str, str]) -> serve.Application:
    app: serve.Application = Chat.bind(Model.bind())
    return app


if __name__ == "__main__":
    serve.start(http_options={"port": 0})
    serve.run(build({}), name="chat", route_prefix="/chat")
    url = f"http://{session.current().identity.http_address}/chat/generate"
    body = json.dumps({"text": "tick tock", "max_tokens": 5}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        print(answer.read().decode().split())
