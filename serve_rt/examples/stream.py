"""Server-sent events: each word of a text as one event, as soon as it is there.

    serve run serve_rt.examples.stream:app
    curl -N 'http://127.0.0.1:8000/?text=one+two+three&delay_s=0.5'

A client that leaves cancels the generator: `finally` runs at once, and the replica's slot is free again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

import serve_rt as serve

MAX_DELAY_S = 10.0


@serve.deployment
class Stream:
    async def __call__(self, request: Request) -> Response:
        text = request.query_params.get("text", "words arrive one by one")
        try:
            delay_s = float(request.query_params.get("delay_s", "0.1"))
        except ValueError:
            return PlainTextResponse("delay_s must be a number of seconds\n", status_code=400)
        delay_s = min(max(delay_s, 0.0), MAX_DELAY_S)
        return StreamingResponse(self._events(text.split(), delay_s), media_type="text/event-stream")

    async def _events(self, words: list[str], delay_s: float) -> AsyncIterator[str]:
        for index, word in enumerate(words):
            yield f"id: {index}\ndata: {json.dumps({'word': word})}\n\n"
            await asyncio.sleep(delay_s)
        yield "event: end\ndata: {}\n\n"


app = Stream.bind()
