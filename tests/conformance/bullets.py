"""What is promised (bullets.txt), and which test tells of which promise.

    @covers("1.9-07", "1.9-08")
    def test_...

`covers` refuses a bullet that is not in the list. `cases()` finds all of them by reading the sources, so that the list
of bullets without a case is right whichever tests were chosen to run.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).parent
COMPLETE: tuple[str, ...] = (
    *(f"1.{number}" for number in range(1, 21)),
    *(f"2.{number}" for number in (1, 2, 3, 4, 5, 8, 9, 10, 13)),
    *("4.2", "4.4", "4.6", "4.7", "4.8", "4.9", "8.1", "8.2", "9.1", "10.1"),
)
"""Sections in which every bullet must have a case; the others are still being written."""
Test = TypeVar("Test", bound=Callable[..., Any])


def read_bullets() -> Mapping[str, str]:
    """Text by id, in the order of the file."""
    lines = (HERE / "bullets.txt").read_text().splitlines()
    pairs = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    bullets = {name: text for name, text in pairs}
    assert len(bullets) == len(pairs), "two bullets have one id"
    return bullets


BULLETS = read_bullets()


def covers(*names: str) -> Callable[[Test], Test]:
    """The test under it tells of these bullets.

    *Errors*: KeyError for a bullet that is not in bullets.txt.
    """
    for name in names:
        if name not in BULLETS:
            raise KeyError(f"{name} is not in tests/conformance/bullets.txt")

    def keep(test: Test) -> Test:
        return test

    return keep


def cases() -> dict[str, list[str]]:
    """Tests by bullet."""
    found: dict[str, list[str]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        for test, bullet in _covered(ast.parse(path.read_text())):
            found.setdefault(bullet, []).append(f"{path.name}::{test}")
    return found


def _covered(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or not function.name.startswith("test_"):
            continue
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "covers":
                yield from ((function.name, str(ast.literal_eval(argument))) for argument in decorator.args)


def section(bullet: str) -> str:
    return bullet.partition("-")[0]


def without_case() -> list[str]:
    covered = cases()
    return [f"{name} {text}" for name, text in BULLETS.items() if name not in covered]
