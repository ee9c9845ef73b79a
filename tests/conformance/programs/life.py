"""A program's own cluster from nothing to nothing; prints what it saw as one line of JSON. Run by test_programs.py."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import serve_rt as serve
from serve_rt.exceptions import RayServeException


@serve.deployment
class Hello:
    def __call__(self) -> str:
        return "hello"


def main() -> dict[str, Any]:
    seen: dict[str, Any] = {}
    seen["status without a cluster"] = len(serve.status().applications) + len(serve.status().proxies)
    try:
        serve.delete("x")
    except RayServeException as error:
        seen["delete without a cluster"] = str(error)
    serve.shutdown()
    serve.start(http_options={"port": 0})
    serve.shutdown()
    handle = serve.run(Hello.bind())  # starts a cluster again, with the options of before
    seen["answer"] = handle.remote().result(timeout_s=20)
    asyncio.run(serve.shutdown_async())
    seen["status after shutdown"] = len(serve.status().applications)
    return seen


def block() -> None:
    serve.start(http_options={"port": 0})
    print("blocking", flush=True)
    serve.run(Hello.bind(), blocking=True)


if __name__ == "__main__":
    block() if sys.argv[1:] == ["block"] else print(json.dumps(main()))
