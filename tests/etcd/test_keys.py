"""Keys are made and taken apart in one place, and never mistaken for one another."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool
from hypothesis import given
from hypothesis import strategies as st

from serve_rt.errors import ConfigError
from serve_rt.etcd import Keys
from serve_rt.model.ids import AppName, BlobDigest, DeploymentKey, DeploymentName, NodeId, ReplicaId

KEYS = Keys("default")
NAMES = st.text(min_size=1, max_size=8).filter(lambda name: "/" not in name and name.isprintable())


def test_the_layout_is_the_one_in_the_design() -> None:
    app, deployment, node, replica = AppName("a"), DeploymentName("d"), NodeId("n"), ReplicaId("a#d#x")
    root = "/serve-rt/default/"
    assert [
        KEYS.meta,
        KEYS.leader,
        KEYS.node(node),
        KEYS.mark(node),
        KEYS.proxy,
        KEYS.app(app),
        KEYS.deployment(app, deployment),
        KEYS.assign(node, replica),
        KEYS.observed(node, replica),
        KEYS.routes(app, deployment, 0),
        KEYS.blob(BlobDigest("ff"), node),
    ] == [
        root + rest
        for rest in (
            *("meta", "leader", "nodes/n", "marks/n", "proxy", "apps/a", "deployments/a/d"),
            *("assign/n/a#d#x", "observed/n/a#d#x", "routes/a/d/0", "blobs/ff/n"),
        )
    ]


@given(a=NAMES, b=NAMES, number=st.integers(0, 999))
def test_every_listed_key_is_parsed_by_its_own_parser_only(a: str, b: str, number: int) -> None:
    made: dict[str, tuple[str, object]] = {
        "node": (KEYS.node(NodeId(a)), a),
        "mark": (KEYS.mark(NodeId(a)), a),
        "app": (KEYS.app(AppName(a)), a),
        "deployment": (KEYS.deployment(AppName(a), DeploymentName(b)), DeploymentKey(AppName(a), DeploymentName(b))),
        "assign": (KEYS.assign(NodeId(a), ReplicaId(b)), (a, b)),
        "observed": (KEYS.observed(NodeId(a), ReplicaId(b)), (a, b)),
        "routes": (
            KEYS.routes(AppName(a), DeploymentName(b), number),
            (DeploymentKey(AppName(a), DeploymentName(b)), number),
        ),
        "blob": (KEYS.blob(BlobDigest(a), NodeId(b)), (a, b)),
    }
    for kind, (key, parts) in made.items():
        for parser in made:
            expected = parts if parser == kind else None
            assert getattr(KEYS, f"parse_{parser}")(key) == expected


def test_prefixes_end_at_a_name() -> None:
    assert not KEYS.assign(NodeId("ab"), ReplicaId("r")).startswith(KEYS.assign_prefix(NodeId("a")))
    assert not Keys("c2").leader.startswith(Keys("c").all)
    assert KEYS.assign(NodeId("a"), ReplicaId("r")).startswith(KEYS.assign_prefix())
    assert KEYS.parse_routes(KEYS.all_routes + "a/d/x") is None
    assert KEYS.parse_node(KEYS.nodes) is None


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_name_that_would_change_the_layout_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="etcd key"):
        KEYS.app(AppName(name))
    with pytest.raises(ConfigError, match="etcd key"):
        Keys(name)


def test_our_messages_stay_out_of_the_shared_descriptor_pool() -> None:
    """A user's program may import another etcd client beside us."""
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindFileByName("serve_rt_etcd_wire.proto")
