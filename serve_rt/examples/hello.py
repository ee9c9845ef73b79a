"""The smallest application: a class, a Starlette request in, text out.

serve run serve_rt.examples.hello:app
curl 'http://127.0.0.1:8000/?name=Ada'
"""

from __future__ import annotations

from starlette.requests import Request

import serve_rt as serve


@serve.deployment
class Hello:
    async def __call__(self, request: Request) -> str:
        name = request.query_params.get("name", "world")
        return f"Hello, {name}!"


app = Hello.bind()
