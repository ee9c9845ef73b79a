"""The same echo on Ray Serve; run by the interpreter in BENCH_RAY_PYTHON: `python ray_app.py PORT`."""
# mypy: ignore-errors
# (Ray is not in this repository's environment.)

from __future__ import annotations

import os
import signal
import sys

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.5})
class Noop:
    async def __call__(self, request: Request) -> JSONResponse:
        body = await request.json()
        return JSONResponse({"nonce": body["nonce"], "pid": os.getpid()})


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Noop.bind())
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    serve.shutdown()
