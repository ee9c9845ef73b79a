"""The committed stubs are what the protos say, and import with the oldest and the newest protobuf runtime we allow.

The compiler lives in a virtual environment of its own (`make` makes it); without it these tests are skipped, except
in CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.sources import ROOT

TOOLS_PYTHON = ROOT / ".venv" / "tools" / "bin" / "python"
STUBS = ROOT / "serve_rt" / "pb"
IMPORT_ALL = (
    "import google.protobuf, importlib, pkgutil, serve_rt.pb as pb\n"
    "for found in pkgutil.iter_modules(pb.__path__):\n"
    "    importlib.import_module('serve_rt.pb.' + found.name)\n"
    "print(google.protobuf.__version__)\n"
)


@pytest.fixture
def tools_python() -> Path:
    if not TOOLS_PYTHON.exists():
        if os.environ.get("CI"):
            pytest.fail("CI must have the tools: run the tests through make")
        pytest.skip("no proto compiler here: make protos installs it")
    return TOOLS_PYTHON


def test_make_protos_leaves_no_diff(tools_python: Path, tmp_path: Path) -> None:
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "protos/serve_rt/v1").glob("*.proto"))
    command = [str(tools_python), "-m", "grpc_tools.protoc", "-I", "protos"]
    command += [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", *protos]
    subprocess.run(command, cwd=ROOT, check=True)

    compiled = {path.name: path.read_text() for path in (tmp_path / "serve_rt/v1").iterdir()}
    committed = {path.name: path.read_text() for path in STUBS.glob("*_pb2.py*")}
    assert compiled == committed, "run make protos and commit serve_rt/pb"


def _import_stubs(python: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run([str(python), "-W", "error", "-c", IMPORT_ALL], env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_stubs_import_with_the_oldest_runtime(tools_python: Path) -> None:
    assert _import_stubs(tools_python).startswith("5.29.")


def test_stubs_import_with_the_runtime_installed() -> None:
    assert _import_stubs(Path(sys.executable)) >= "5.29"


def test_stubs_say_the_oldest_compiler() -> None:
    for stub in STUBS.glob("*_pb2.py"):
        assert "# Protobuf Python Version: 5.29." in stub.read_text(), f"{stub.name} needs a newer protobuf runtime"
