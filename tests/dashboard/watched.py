"""What the browser looks at: an autoscaled deployment that prints markup and fails when asked to."""

from __future__ import annotations

from starlette.requests import Request

import serve_rt as serve


@serve.deployment(
    ray_actor_options={"num_cpus": 0.1},
    autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 50},
)
class Watched:
    async def __call__(self, request: Request) -> str:
        number = int(request.query_params["number"])
        print(f"<b>asked for {number}</b>")
        if number % 10 == 0:
            raise ValueError("asked to fail")
        return "ok"


app = Watched.bind()
