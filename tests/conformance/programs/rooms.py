"""WebSocket chat rooms and server-sent events, with tokens that come through two deployments."""

# mypy: disable-error-code="misc"
from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import websockets
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

import serve_rt as serve
from serve_rt.api import session
from serve_rt.handle import DeploymentHandle

app = FastAPI()


@serve.deployment
class Words:
    def split(self, text: str, times: int) -> Iterator[str]:
        for number in range(times):
            time.sleep(0.005)
            yield f"{text}{number}"

    async def __call__(self, text: str) -> str:
        return text.upper()


@serve.deployment
class Model:
    def __init__(self, words: DeploymentHandle[Any]) -> None:
        self.words = words.options(stream=True)
        self.ended: list[str] = []

    async def generate(self, text: str, times: int) -> AsyncIterator[dict[str, str]]:
        try:
            async for word in self.words.split.remote(text, times):
                yield {"token": word}
        finally:
            self.ended.append(text)

    def get_ended(self) -> list[str]:
        return self.ended

    async def breaks(self) -> AsyncIterator[int]:
        yield 1
        raise KeyError("half way")


@serve.deployment
@serve.ingress(app)
class Api:
    def __init__(self, model: DeploymentHandle[Any], words: DeploymentHandle[Any]) -> None:
        self.model, self.words = model, words
        self.rooms: dict[str, set[WebSocket]] = {}

    @app.post("/generate")
    async def generate(self, request: Request) -> StreamingResponse:
        asked = await request.json()
        tokens = self.model.options(stream=True).generate.remote(asked["text"], asked["times"])

        async def events() -> AsyncIterator[str]:
            async for token in tokens:
                yield f"data: {json.dumps(token)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/ended")
    async def ended(self) -> Any:
        return await self.model.get_ended.remote()

    @app.websocket("/rooms/{room}")
    async def join(self, socket: WebSocket, room: str, name: str) -> None:
        await socket.accept(subprotocol="chat")
        members = self.rooms.setdefault(room, set())
        members.add(socket)
        try:
            while True:
                text = await self.words.remote((await socket.receive_json())["text"])
                told = {"from": name, "text": text, "members": len(members)}
                await asyncio.gather(*(member.send_json(told) for member in members))
        except WebSocketDisconnect as left:
            members.discard(socket)
            for member in members:
                await member.send_text(f"{name} left with {left.code}")


async def main() -> None:
    address = session.current().identity.http_address
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=20) as ask:
        lines = (await ask.post("/generate", json={"text": "hi", "times": 3})).text.split("\n\n")
        print(lines[0], lines[2], lines[3])
        async with ask.stream("POST", "/generate", json={"text": "left", "times": 100_000}) as answer:
            print(await anext(answer.aiter_lines()))
        while "left" not in (await ask.get("/ended")).json():  # noqa: ASYNC110 - it is another process's word
            await asyncio.sleep(0.05)
    room = f"ws://{address}/rooms/a?name="
    chat = [websockets.Subprotocol("chat")]
    async with websockets.connect(room + "ann", subprotocols=chat) as ann:
        async with websockets.connect(room + "bob", subprotocols=chat) as bob:
            await ann.send(json.dumps({"text": "hello"}))
            print(ann.subprotocol, json.loads(await ann.recv()) == json.loads(await bob.recv()))
            await bob.close(4001)
        print(await ann.recv())


if __name__ == "__main__":
    serve.start(http_options={"port": 0})
    words = Words.bind()
    serve.run(Api.bind(Model.bind(words), words))
    asyncio.run(main())
    model = serve.get_deployment_handle("Model", "default").options(stream=True)
    try:
        for number in model.breaks.remote():
            print(number)
    except KeyError as error:
        print("broke", error)
