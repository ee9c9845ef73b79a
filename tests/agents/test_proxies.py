"""Which nodes serve HTTP: the rule, in values. With real nodes: tests/cluster/test_proxy_location.py."""

from __future__ import annotations

import pytest

from serve_rt.model.ids import NodeId
from serve_rt.model.proxies import ProxyLocation, serves_http

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
EVERY, HEAD, NONE = ProxyLocation.EveryNode, ProxyLocation.HeadOnly, ProxyLocation.Disabled


@pytest.mark.parametrize(
    ("location", "able", "since", "serving"),
    [
        (EVERY, {A, B, C}, {A: 3, B: 1, C: 2}, {A, B, C}),
        (EVERY, {A, C}, {A: 3, B: 1, C: 2}, {A, C}),
        (NONE, {A, B, C}, {A: 3, B: 1, C: 2}, set()),
        (HEAD, {A, B, C}, {A: 3, B: 1, C: 2}, {B}),
        (HEAD, {A, C}, {A: 3, B: 1, C: 2}, {C}),
        (HEAD, {B, C}, {B: 5, C: 5}, {B}),
        (HEAD, {B, C}, {C: 5}, {B}),
        (HEAD, set(), {A: 1}, set()),
    ],
    ids=["every", "every but --no-proxy", "none", "the oldest", "the oldest that may", "a tie", "unread", "nobody may"],
)
def test_who_serves(location: ProxyLocation, able: set[NodeId], since: dict[NodeId, int], serving: set[NodeId]) -> None:
    assert {node for node in (A, B, C) if serves_http(node, location, able, since)} == serving
