"""The code zip: same files, same bytes; what does not belong is left out."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from serve_rt.api import snapshot as module
from serve_rt.api.snapshot import import_root, snapshot, uses_code_of
from serve_rt.cli.reload import Watched
from serve_rt.config.paths import StateDir
from serve_rt.credentials import ClusterToken
from serve_rt.errors import ConfigError
from serve_rt.replica.code_beside import link_beside


def _tree(root: Path) -> None:
    for name, text in {
        "app.py": "x = 1\n",
        "pkg/__init__.py": "",
        "pkg/data.txt": "data",
        "secret.env": "no",
        "build/out.py": "no",
        ".venv/lib.py": "no",
        "__pycache__/app.pyc": "no",
        ".gitignore": "*.env\nbuild/\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


WANTED = [".gitignore", "app.py", "pkg/__init__.py", "pkg/data.txt"]


def _names(data: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(data)).namelist()


def test_gitignore_holds_with_and_without_git(tmp_path: Path) -> None:
    _tree(tmp_path)
    plain = snapshot(tmp_path)
    assert _names(plain) == WANTED
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert snapshot(tmp_path) == plain, "git lists the same files"


@pytest.mark.parametrize("with_git", [False, True])
def test_a_state_dir_beside_the_code_stays_where_it_is(tmp_path: Path, with_git: bool) -> None:
    _tree(tmp_path)
    if with_git:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
    state = StateDir(tmp_path / "var" / "state").create()
    ClusterToken.create(state.token)
    (state.etcd / "member").write_bytes(b"x" * 100)
    (tmp_path / "var" / "notes.txt").write_text("code of ours")
    (tmp_path / "pkg" / "token").write_text("a file of this name is no state dir")
    assert _names(snapshot(tmp_path)) == [*WANTED, "pkg/token", "var/notes.txt"]
    watched = Watched(tmp_path)
    (state.path / "routes.json").write_text("{}")
    assert watched.changed() == []


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    _tree(tmp_path)
    first = snapshot(tmp_path)
    os.utime(tmp_path / "app.py", (1, 1))
    assert snapshot(tmp_path) == first
    (tmp_path / "app.py").write_text("x = 2\n")
    assert snapshot(tmp_path) != first


def test_a_deleted_file_that_git_still_knows_is_left_out(tmp_path: Path) -> None:
    _tree(tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    (tmp_path / "app.py").unlink()
    assert "app.py" not in _names(snapshot(tmp_path))


def test_a_link_to_a_folder_inside_is_followed_and_one_to_outside_is_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    _tree(root)
    outside.mkdir()
    (outside / "x.py").write_text("")
    (root / "alias").symlink_to("pkg")
    (root / "leak").symlink_to(outside)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    names = _names(snapshot(root))
    assert "alias/data.txt" in names and not any(name.startswith("leak") for name in names)


def test_too_much_code_is_refused_naming_the_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(module, "LARGE_BYTES", 4 << 20)
    (tmp_path / "weights.bin").write_bytes(bytes(2 << 20))
    with pytest.raises(ConfigError, match=r"2.0 MiB, more than the limit of 1 MiB.*weights.bin.*--app-dir"):
        snapshot(tmp_path)
    with pytest.raises(ConfigError, match="cannot travel"):
        snapshot(Path("/"))


def test_large_files_stay_where_they_are_and_other_ones_are_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)
    _tree(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(2 << 20))
    first = snapshot(tmp_path)
    assert _names(first) == [*WANTED, ".serve-left-out"] and snapshot(tmp_path) == first
    assert f"weights.bin stays in {tmp_path}" in caplog.text
    (tmp_path / "weights.bin").write_bytes(bytes(3 << 20))
    assert snapshot(tmp_path) != first


def test_replicas_find_what_was_left_out_where_the_code_came_from(tmp_path: Path) -> None:
    origin, unpacked = tmp_path / "origin", tmp_path / "unpacked"
    _tree(origin)
    (origin / "pkg" / "weights.pt").write_text("w")
    (origin / "data" / "deep").mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(snapshot(origin))) as archive:
        archive.extractall(unpacked)
    (unpacked / "pkg" / "weights.pt").unlink()
    (unpacked / "app.py").write_text("as deployed")
    assert link_beside(str(unpacked), str(origin)) > 0
    assert (unpacked / "pkg" / "weights.pt").read_text() == "w" and (unpacked / "data" / "deep").is_dir()
    assert (unpacked / "secret.env").exists() and (unpacked / "app.py").read_text() == "as deployed"
    assert not (unpacked / ".venv").exists() and not (unpacked / "__pycache__").exists()
    assert link_beside(str(unpacked), str(origin)) == 0 == link_beside(str(unpacked), str(tmp_path / "elsewhere"))


@pytest.mark.parametrize(("name", "depth"), [("svc.app", 1), ("svc.__main__", 1), ("app", 0)])
def test_the_import_root_of_a_module_that_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, depth: int
) -> None:
    """`python -m svc.app`; a script has no spec."""
    folder = tmp_path / "svc" if depth else tmp_path
    main = types.SimpleNamespace(__file__=str(folder / "app.py"), __spec__=types.SimpleNamespace(name=name))
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert import_root() == tmp_path
    main.__spec__ = None
    assert import_root() == folder


def test_installed_code_does_not_travel(tmp_path: Path) -> None:
    assert not uses_code_of(tmp_path)
    assert uses_code_of(Path(__file__).parents[2]), "these tests are code of the checkout"
