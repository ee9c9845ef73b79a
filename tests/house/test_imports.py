"""What an import costs and drags in: each line is one fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.house.sources import ROOT

HEAVY = ("starlette", "fastapi", "torch", "transformers", "rich", "serve_rt.api")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout))


def test_the_face_is_lazy() -> None:
    loaded = loaded_after("import serve_rt.etcd")
    assert not loaded.intersection(HEAVY)


def test_bare_import_loads_nothing_of_the_network() -> None:
    loaded = loaded_after("import serve_rt")
    assert not loaded.intersection((*HEAVY, "grpc", "uvicorn", "google.protobuf"))


@pytest.mark.parametrize("module", ["serve_rt.routing", "serve_rt.proxy.main", "serve_rt.transport"])
def test_the_request_path_needs_no_user_side_library(module: str) -> None:
    assert not loaded_after(f"import {module}").intersection(HEAVY)


@pytest.mark.parametrize(
    "module", ["serve_rt.agents.main", "serve_rt.controller.main", "serve_rt.agents.launcher.main"]
)
def test_the_control_plane_never_loads_a_model_library_or_a_pickler(module: str) -> None:
    assert not loaded_after(f"import {module}").intersection(
        ("starlette", "fastapi", "torch", "transformers", "cloudpickle")
    )


def test_the_face_names_what_it_promises() -> None:
    code = (
        "import serve_rt as serve\n"
        "names = ['deployment', 'run', 'start', 'delete', 'shutdown', 'status', 'get_app_handle', 'batch']\n"
        "missing = [name for name in names if not callable(getattr(serve, name, None))]\n"
        "assert not missing, missing\n"
        "try:\n    serve.no_such_name\nexcept AttributeError as error:\n    assert 'no_such_name' in str(error)\n"
        "else:\n    raise SystemExit('an unknown name was found')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
