"""Where the repository's own Python sources are, and what they import: read with `ast`, never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "serve_rt"
GENERATED = "pb"


@dataclass(frozen=True, slots=True)
class Source:
    path: Path
    """In the tree, through the folder's real place (`proxy/app.py`, not `serve_rt/proxy/app.py`)."""
    module: str
    is_package: bool

    @property
    def part(self) -> str:
        """The folder or file right under `serve_rt`: `routing`, `errors`, `proxy`; "" for the package's own face."""
        names = self.module.split(".")
        return names[1] if len(names) > 1 else ""

    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), filename=str(self.path))

    def lines(self) -> int:
        return len(self.path.read_text().splitlines())

    def shown(self) -> str:
        return str(self.path.relative_to(ROOT))


def package_sources(*, generated: bool = False) -> Iterator[Source]:
    """All modules of `serve_rt`, `serve_rt.proxy` and `serve_rt.agents`; the compiled stubs only when asked for."""
    for folder, prefix in (
        (ROOT / PACKAGE, PACKAGE),
        (ROOT / "proxy", f"{PACKAGE}.proxy"),
        (ROOT / "agents", f"{PACKAGE}.agents"),
    ):
        for path in sorted(folder.rglob("*.py")):
            relative = path.relative_to(folder)
            if _through_link(folder, relative) or "__pycache__" in relative.parts:
                continue
            if not generated and prefix == PACKAGE and relative.parts[0] == GENERATED:
                continue
            names = [prefix, *relative.with_suffix("").parts]
            is_package = names[-1] == "__init__"
            yield Source(path, ".".join(names[:-1] if is_package else names), is_package)


def _through_link(folder: Path, relative: Path) -> bool:
    return any((folder / parent).is_symlink() for parent in relative.parents)


def all_python_files() -> Iterator[Path]:
    """Sources, tests and benches, without what is generated."""
    for source in package_sources():
        yield source.path
    for folder in ("tests", "bench"):
        yield from sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


@dataclass(frozen=True, slots=True)
class Import:
    module: str
    """Absolute; `from serve_rt.a import b` is `serve_rt.a.b`, which covers both a module b and a name b of a."""
    line: int
    from_module: str
    """What stands after `from`, made absolute; equal to `module` for a plain import."""
    for_types_only: bool


def imports(source: Source) -> Iterator[Import]:
    """Every import statement, lazy ones inside functions included."""
    tree = source.tree()
    type_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and _is_type_checking(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, alias.name, id(node) in type_only)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(source, node)
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno, base, id(node) in type_only)


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    names = source.module.split(".")
    up = node.level - (1 if source.is_package else 0)
    base = names[: len(names) - up] if up else names
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )
