"""`pip install .` without extras brings no Rust: every shared object of a fresh environment is looked into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.sources import ROOT

# What rustc leaves in every binary: its version note, or paths of its sources in panic messages.
RUST_MARKERS = (b"rustc version ", b"/rustc/", b"rust_eh_personality", b"RUST_BACKTRACE")


def rust_markers(content: bytes) -> list[str]:
    return [marker.decode() for marker in RUST_MARKERS if marker in content]


def shared_objects(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*.so*") if path.is_file() and not path.is_symlink())


def test_markers_are_found_where_there_is_rust() -> None:
    """The check can fail: the tests' own environment has Rust in it."""
    import pydantic_core

    found = [rust_markers(path.read_bytes()) for path in shared_objects(Path(pydantic_core.__file__).parent)]
    assert found and all(found)


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_a_plain_install_has_no_rust(tmp_path: Path) -> None:
    if not os.environ.get("CI"):
        pytest.skip("installs into a fresh environment: set CI=1")
    # From a copy: building in the tree would leave a build folder there, and take stale files from it.
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("serve_rt", "proxy", "agents"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    fresh = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(fresh)], check=True)
    python = fresh / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(copy)]
    subprocess.run(install, check=True, stdin=subprocess.DEVNULL)

    site = next((fresh / "lib").glob("python*/site-packages"))
    objects = list(shared_objects(site))
    assert len(objects) > 5, "the check must look at something"
    rust = {str(path.relative_to(site)): found for path in objects if (found := rust_markers(path.read_bytes()))}
    assert not rust, f"Rust extensions in a plain install: {rust}"

    listed = subprocess.run(
        [str(python), "-c", "import serve_rt.proxy.main, serve_rt.agents.main, serve_rt; print(serve_rt.__file__)"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert str(fresh) in listed.stdout, "the wheel brings proxy/ and agents/ with it"
