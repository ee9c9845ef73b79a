"""`serve.metrics`: counters, gauges and histograms of user code, with the tags of the replica they are counted in.

    self.requests = metrics.Counter("my_requests", description="…", tag_keys=("model",))
    self.requests.inc(tags={"model": "a"})

Usable anywhere; what is counted in a replica is exported with the built-in metrics of its node at `/-/metrics`. The
same metric may be made several times (one for each instance of a class): all count into one. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from serve_rt.context import current_request
from serve_rt.observe.exposition import PREFIX

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

ORIGIN_TAGS = ("application", "deployment", "replica")
"""Added in replicas; user code cannot use these names."""
ROUTE = "route"
"""Filled in from the request where it is a tag key and not given."""

_lock = threading.Lock()
_origin: dict[str, str] = {}
_registry: CollectorRegistry | None = None
_made: dict[str, tuple[type, tuple[str, ...], Any]] = {}


def set_origin(application: str, deployment: str, replica: str) -> None:
    """This process is a replica; before user code runs."""
    _origin.update(application=application, deployment=deployment, replica=replica)


def families() -> list[Family]:
    """What was counted, for serve_rt.observe.exposition."""
    return list(_registry.collect()) if _registry is not None else []


class _Metric:
    """*Errors*: TypeError and ValueError for names, tags and values that cannot be, as Ray's."""

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, got {type(name).__name__}")
        if not name:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        if tag_keys is not None and not isinstance(tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(tag_keys)}")
        for key in tag_keys or ():
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
            _refuse_reserved(key)
        self._name, self._description = name, description
        self._tag_keys = tag_keys or ()
        self._default_tags: dict[str, str] = {}
        self._children: dict[tuple[str, ...], Any] = {}
        self._parent = self._make_once()

    @property
    def info(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def set_default_tags(self, default_tags: Mapping[str, str]) -> None:
        """Values for tags that a call leaves out."""
        for key, value in default_tags.items():
            self._check_tag(key, value)
        self._default_tags = dict(default_tags)

    def _child(self, tags: Mapping[str, str] | None) -> Any:  # Any: of one of prometheus-client's classes
        values = tuple(self._value(key, tags) for key in self._tag_keys)
        if tags:
            for key, value in tags.items():
                self._check_tag(key, value)
        child = self._children.get(values)
        if child is None:
            labels = (*_origin.values(), *values)
            child = self._children[values] = self._parent.labels(*labels) if labels else self._parent
        return child

    def _value(self, key: str, tags: Mapping[str, str] | None) -> str:
        if tags and key in tags:
            return tags[key]
        if key in self._default_tags:
            return self._default_tags[key]
        if key == ROUTE:
            request = current_request.get()
            return request.route if request is not None else ""
        raise ValueError(f"Missing value for tag key(s): {key}.")

    def _check_tag(self, key: str, value: object) -> None:
        if key not in self._tag_keys:
            _refuse_reserved(key)
            raise ValueError(f"Unrecognized tag key {key}: {self._name} has the tag keys {self._tag_keys}.")
        if not isinstance(value, str):
            raise TypeError(f"Tag values must be str, got {type(value)} for {key}.")

    def _make_once(self) -> Any:  # Any: of one of prometheus-client's classes
        global _registry
        from prometheus_client import CollectorRegistry

        with _lock:
            if _registry is None:
                _registry = CollectorRegistry(auto_describe=False)
            kind, keys, found = _made.get(self._name, (type(self), self._tag_keys, None))
            if kind is not type(self) or keys != self._tag_keys:
                raise ValueError(f"{self._name!r} was made before as a {kind.__name__} with the tag keys {keys}.")
            if found is None:
                found = self._make(PREFIX + self._name, (*_origin, *self._tag_keys), _registry)
                _made[self._name] = (kind, keys, found)
            return found

    def _make(self, name: str, labels: Sequence[str], registry: CollectorRegistry) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} {self._tag_keys}>"


def _refuse_reserved(key: str) -> None:
    if key in ORIGIN_TAGS:
        raise ValueError(f"'{key}' tag is reserved for Ray Serve metrics: every replica adds {', '.join(ORIGIN_TAGS)}.")


class Counter(_Metric):
    """What only grows; exported as `<name>_total`."""

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        if not isinstance(value, int | float):
            raise TypeError(f"value must be int or float, got {type(value)}.")
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        self._child(tags).inc(value)

    def _make(self, name: str, labels: Sequence[str], registry: CollectorRegistry) -> Any:
        from prometheus_client import Counter as Counts

        return Counts(name, self._description, labels, registry=registry)


class Gauge(_Metric):
    """A level: the last value stands."""

    def set(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        if not isinstance(value, int | float):
            raise TypeError(f"value must be int or float, got {type(value)}.")
        self._child(tags).set(value)

    def _make(self, name: str, labels: Sequence[str], registry: CollectorRegistry) -> Any:
        from prometheus_client import Gauge as Level

        return Level(name, self._description, labels, registry=registry)


class Histogram(_Metric):
    """How often values fell between `boundaries`."""

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        if not boundaries:
            raise ValueError("boundaries argument should be provided when using the Histogram class.")
        if any(bound <= 0 for bound in boundaries):
            raise ValueError("Invalid `boundaries` argument: all bounds should be greater than 0.")
        self._boundaries = tuple(sorted(boundaries))
        super().__init__(name, description, tag_keys)

    @property
    def info(self) -> dict[str, Any]:
        return {**super().info, "boundaries": list(self._boundaries)}

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        if not isinstance(value, int | float):
            raise TypeError(f"value must be int or float, got {type(value)}.")
        self._child(tags).observe(value)

    def _make(self, name: str, labels: Sequence[str], registry: CollectorRegistry) -> Any:
        from prometheus_client import Histogram as Buckets

        return Buckets(name, self._description, labels, registry=registry, buckets=self._boundaries)
