"""Which nodes of a cluster serve HTTP: one word for the whole cluster, in `/proxy`, and the rule that follows from it.

The first agent of a cluster writes the word (`--proxy-location`, or what `serve.start` was told); those that join
follow it. Each agent asks `serves_http` about itself whenever the cluster changes (`serve_rt.agents.proxies`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve_rt.model.ids import NodeId


class ProxyLocation(enum.StrEnum):
    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    """One node: of those that may, the one registered longest."""
    EveryNode = "EveryNode"


@dataclass(frozen=True, slots=True)
class ProxyRecord:
    """`/proxy`: written once, by the first agent that registers."""

    location: ProxyLocation = ProxyLocation.EveryNode
    schema: int = 1


def serves_http(
    node: NodeId, location: ProxyLocation, candidates: Iterable[NodeId], registered_at: Mapping[NodeId, float]
) -> bool:
    """Shall `node` have proxies? `candidates` are the registered nodes that may (not `--no-proxy`); `registered_at` the
    revision of each registration, which a successor on the same machine keeps.
    """
    able = list(candidates)
    if location is ProxyLocation.HeadOnly:
        return bool(able) and node == min(able, key=lambda one: (registered_at.get(one, 0), one))
    return location is ProxyLocation.EveryNode and node in able
