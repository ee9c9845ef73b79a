"""Imports go down, or left within a storey's line. The table is the one of the architecture page."""

from __future__ import annotations

from pathlib import Path

from tests.house.sources import PACKAGE, Import, Source, imports, package_sources

# A part may import the parts of lower storeys, and those before it in its own line.
STOREYS: tuple[tuple[str, ...], ...] = (
    ("errors", "ray_names", "aio", "context", "model", "pb"),
    ("wire", "config", "observe", "credentials"),
    ("transport", "etcd"),
    ("store",),
    ("routing",),
    ("handle", "batching", "multiplex"),
    ("api", "work", "replica", "controller"),
    ("dashboard", "cli", "testing"),
    ("proxy", "agents"),
)
# Names users may import besides the face; nothing inside imports them.
FACES = frozenset({"", "exceptions", "schema", "metrics", "config_types", "autoscaling_policy"})
EXAMPLES = "examples"


def _places() -> dict[str, tuple[int, int]]:
    return {part: (storey, place) for storey, line in enumerate(STOREYS) for place, part in enumerate(line)}


def violation(source: Source, found: Import) -> str | None:
    """Why this import is not allowed, or None. Pure, so that the rule itself is tested below."""
    names = found.module.split(".")
    if names[0] in ("proxy", "agents") and len(names) > 1:
        return "is reached as serve_rt." + names[0]
    if names[0] != PACKAGE or source.part == EXAMPLES:
        return None
    target = names[1] if len(names) > 1 else ""
    if source.part in FACES:
        return None
    if target == source.part:
        return None
    places = _places()
    if target in FACES or target not in places:
        return "is the users' face: import from the part that has it"
    if source.part not in places:
        return f"comes from {source.part!r}, which has no storey: add it to the table"
    mine, theirs = places[source.part], places[target]
    if theirs[0] < mine[0] or (theirs[0] == mine[0] and theirs[1] < mine[1]):
        return None
    return f"goes up: {source.part} is on storey {mine[0]}, {target} on {theirs[0]}"


def test_imports_go_down() -> None:
    wrong = [
        f"{source.shown()}:{found.line}: {found.module} {why}"
        for source in package_sources()
        for found in imports(source)
        if (why := violation(source, found)) is not None
    ]
    assert not wrong, "\n".join(wrong)


def test_every_part_has_a_storey() -> None:
    parts = {source.part for source in package_sources()} - FACES - {EXAMPLES}
    assert parts <= set(_places()), parts - set(_places())


def _source(module: str) -> Source:
    return Source(Path("x.py"), module, is_package=False)


def _import(module: str) -> Import:
    return Import(module, 1, module, for_types_only=False)


def test_the_rule_refuses_what_it_must() -> None:
    assert violation(_source("serve_rt.transport.client"), _import("serve_rt.api.run")) is not None
    assert violation(_source("serve_rt.transport.client"), _import("serve_rt.etcd.client")) is not None, "to the right"
    assert violation(_source("serve_rt.routing.router"), _import("serve_rt.proxy.app")) is not None
    assert violation(_source("serve_rt.routing.router"), _import("proxy.app")) is not None
    assert violation(_source("serve_rt.etcd.client"), _import("serve_rt.run")) is not None, "the bare package"
    assert violation(_source("serve_rt.etcd.client"), _import("serve_rt")) is not None


def test_the_rule_allows_what_it_must() -> None:
    assert violation(_source("serve_rt.etcd.client"), _import("serve_rt.transport.flow")) is None, "to the left"
    assert violation(_source("serve_rt.routing.router"), _import("serve_rt.transport.client")) is None
    assert violation(_source("serve_rt.routing.router"), _import("serve_rt.routing.pick")) is None
    assert violation(_source("serve_rt.agents.main"), _import("serve_rt.proxy.app")) is None
    assert violation(_source("serve_rt.examples.hello"), _import("serve_rt")) is None


def test_relative_and_lazy_imports_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "router.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from ..api import run\n"
        "from . import pick\n"
        "def later():\n"
        "    import serve_rt.cli.main\n"
    )
    found = [one.module for one in imports(Source(path, "serve_rt.routing.router", is_package=False))]
    assert found == ["__future__.annotations", "serve_rt.api.run", "serve_rt.routing.pick", "serve_rt.cli.main"]
