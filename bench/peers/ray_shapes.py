"""bench/shape_apps.py on Ray Serve, its one import changed; run by BENCH_RAY_PYTHON: `python ray_shapes.py PORT`."""
# mypy: ignore-errors
# (Ray is not in this repository's environment.)

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

from ray import cloudpickle, serve

if __name__ == "__main__":
    sys.modules["serve_rt"] = serve
    spec = importlib.util.spec_from_file_location("shape_apps", Path(__file__).parents[1] / "shape_apps.py")
    shape_apps = importlib.util.module_from_spec(spec)
    sys.modules["shape_apps"] = shape_apps
    spec.loader.exec_module(shape_apps)
    cloudpickle.register_pickle_by_value(shape_apps)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(shape_apps.app)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    serve.shutdown()
