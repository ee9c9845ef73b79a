"""The same echo on mosec (its HTTP front is Rust); run by BENCH_MOSEC_PYTHON: `python mosec_app.py --port PORT`."""
# mypy: ignore-errors
# (mosec is not in this repository's environment.)

from __future__ import annotations

import os

from mosec import Server, Worker


class Noop(Worker):
    def forward(self, data):
        return {"nonce": data["nonce"], "pid": os.getpid()}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Noop, num=1)
    server.run()
