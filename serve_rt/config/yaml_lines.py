"""YAML as plain values, with the line of each: for messages that say where in a user's file something is wrong.

Called by `serve_rt.config.app_config`. Bounded in bytes, nodes and depth, so that no document costs more than a moment;
a key given twice is an error, because one of the two would be lost in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from serve_rt.errors import ConfigError

MAX_BYTES = 512 * 1024
MAX_NODES = 100_000
MAX_DEPTH = 50

Path = tuple[str | int, ...]
"""Where a value stands: ("applications", 0, "name")."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    value: Any
    lines: Mapping[Path, int]
    source: str

    def error(self, path: Path, message: str) -> ConfigError:
        """With the nearest known line: `app.yaml:7: applications[0].name: …`."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        where = spelled(path)
        return ConfigError(f"{self.source}:{self.lines.get(known, 1)}: {where + ': ' if where else ''}{message}")


def spelled(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_yaml(text: str, source: str) -> Document:
    """*Errors*: ConfigError with the line."""
    size = len(text.encode())
    if size > MAX_BYTES:
        raise ConfigError(f"{source} has {size} bytes; a configuration may have at most {MAX_BYTES}.")
    try:
        _check_shape(text, source)
        loader = _Loader(text)
        try:
            reading = _Reading(loader, source)
            node = loader.get_single_node()
            value = reading.value(node, ()) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line + 1, len(text.splitlines())) if mark is not None else 1
        raise ConfigError(f"{source}:{line}: this is not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: this is not YAML: {error}") from error
    return Document(value, reading.lines, source)


def _check_shape(text: str, source: str) -> None:
    """Before anything is built from it: depth and number of nodes."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or count > MAX_NODES:
            limit = f"deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else f"more than {MAX_NODES} values"
            line = event.start_mark.line + 1 if event.start_mark is not None else 1
            raise ConfigError(f"{source}:{line}: the document has {limit}.")


class _Reading:
    def __init__(self, loader: Any, source: str) -> None:
        self.lines: dict[Path, int] = {}
        self._loader, self._source, self._left = loader, source, MAX_NODES

    def value(self, node: Any, path: Path) -> Any:
        """What the node stands for; aliases count each time they are used."""
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._left -= 1
        if self._left < 0 or len(path) > MAX_DEPTH:
            raise ConfigError(f"{self._source}:{line}: the document has more than {MAX_NODES} values.")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(one, (*path, index)) for index, one in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._loader.construct_object(node)
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            at = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"{self._source}:{at}: keys must be text, got {key_node.value!r:.60}.")
            if key in found:
                raise ConfigError(f"{self._source}:{at}: {spelled((*path, key))} is given twice.")
            self.lines[*path, key] = at
            found[key] = self.value(value_node, (*path, key))
        return found
