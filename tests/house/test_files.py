"""The shape of files and folders: size, names, READMEs, time."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.sources import ROOT, all_python_files, package_sources

MAX_LINES = 400
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "base"}
PURE = (
    "serve_rt/model",
    "serve_rt/controller/reconcile.py",
    "serve_rt/controller/plan.py",
    "serve_rt/controller/placement.py",
    "serve_rt/controller/rollout.py",
    "serve_rt/controller/autoscale.py",
)
CLOCKS = {("time", "time"), ("time", "monotonic"), ("time", "perf_counter"), ("datetime", "now"), ("time", "sleep")}


def test_no_file_hides_a_second_idea() -> None:
    long = {str(path.relative_to(ROOT)): count for path in all_python_files() if (count := _lines(path)) > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines: look for the second idea in {long}"


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_modules_are_nouns_or_doings() -> None:
    wrong = [str(path.relative_to(ROOT)) for path in all_python_files() if path.stem in FORBIDDEN_NAMES]
    assert not wrong


def test_annotations_are_lazy_everywhere() -> None:
    wrong = [source.shown() for source in package_sources() if not _has_future_annotations(source.tree())]
    assert not wrong, f"`from __future__ import annotations` is missing in {wrong}"


def _has_future_annotations(tree: ast.Module) -> bool:
    only_docstring = all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom | ast.Assign) for node in tree.body)
    return only_docstring or any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" and node.names[0].name == "annotations"
        for node in tree.body
    )


def test_modules_tell_their_story() -> None:
    wrong = [
        source.shown() for source in package_sources() if source.lines() > 3 and not ast.get_docstring(source.tree())
    ]
    assert not wrong, f"no module docstring in {wrong}"


def clock_calls(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if (name, node.func.attr) in CLOCKS:
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield node.lineno


def test_decisions_get_time_as_an_argument() -> None:
    wrong = [
        f"{source.shown()}:{line}"
        for source in package_sources()
        if source.shown().startswith(PURE)
        for line in clock_calls(source.tree())
    ]
    assert not wrong, f"a decision reads a clock: {wrong}"


def test_the_clock_rule_can_fail() -> None:
    assert list(clock_calls(ast.parse("import time\nnow = time.time()"))) == [2]
    assert list(clock_calls(ast.parse("from time import time"))) == [1]
    assert list(clock_calls(ast.parse("clock.now()"))) == []


def _folders() -> list[Path]:
    parts = {source.path.parent for source in package_sources()}
    own = sorted(part for part in parts if part.parent in (ROOT, ROOT / "serve_rt"))
    return [*own, ROOT / "bench", ROOT / "tests"]


@pytest.mark.parametrize("folder", _folders(), ids=lambda path: str(path.relative_to(ROOT)))
def test_folder_has_a_readme(folder: Path) -> None:
    if folder == ROOT / "serve_rt":
        pytest.skip("the top README describes it")
    readme = folder / "README.md"
    assert readme.is_file(), f"{folder.relative_to(ROOT)} has no README.md"
    assert "known weaknesses" in readme.read_text().lower(), (
        f"{readme.relative_to(ROOT)}: no section 'Known weaknesses'"
    )


def test_links_are_relative_and_whole() -> None:
    for name in ("proxy", "agents"):
        link = ROOT / "serve_rt" / name
        assert link.is_symlink() and str(link.readlink()) == f"../{name}"


def test_the_tree_has_what_was_asked_for() -> None:
    for name in (
        "protos",
        "serve_rt",
        "proxy",
        "agents",
        "tests",
        "pyproject.toml",
        "README.md",
        "Makefile",
        "LICENSE",
    ):
        assert (ROOT / name).exists(), name
    assert (ROOT / "serve_rt/py.typed").exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_no_secrets_or_bulk_in_git() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    big = [str(path.relative_to(ROOT)) for path in files if path.is_file() and path.stat().st_size > 512 * 1024]
    assert not big, f"larger than 512 KiB: {big}"


def test_make_help_lists_the_verbs() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for verb in ("run", "test", "lint", "types", "bench", "protos", "test-gpu", "clean", "install", "venv"):
        assert f"make {verb} " in text, verb
