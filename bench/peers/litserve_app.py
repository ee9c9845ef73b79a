"""The same echo on LitServe; run by the interpreter in BENCH_LITSERVE_PYTHON: `python litserve_app.py PORT`."""
# mypy: ignore-errors
# (LitServe is not in this repository's environment.)

from __future__ import annotations

import os
import sys

import litserve


class Noop(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["nonce"]

    def predict(self, nonce):
        return nonce

    def encode_response(self, output):
        return {"nonce": output, "pid": os.getpid()}


if __name__ == "__main__":
    server = litserve.LitServer(Noop(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
