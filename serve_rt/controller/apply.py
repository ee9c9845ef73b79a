"""From a plan to fenced writes. The only file of the controller that writes what the leader decided.

Every transaction compares the leader key (`Leadership.write`), so a leader that lost it without noticing changes
nothing. Actions stay in the plan's order and one action is never split, so whatever prefix of a plan arrives is a
state the next leader goes on from. After the writes the loop pushes the assignments to the agents.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from serve_rt.controller.plan import (
    Action,
    CreateAssignment,
    DeleteAssignment,
    DeleteObserved,
    DrainAssignment,
    ForgetApplication,
    PublishRoute,
    RemoveApp,
    RemoveDeployment,
    RemoveMark,
    RemoveRoute,
    RemoveVersion,
    RewriteAssignment,
    SaveApplication,
    SaveDeployment,
    SaveVersion,
    describe,
)
from serve_rt.etcd.election import Leadership
from serve_rt.etcd.keys import Keys
from serve_rt.etcd.values import Compare, Delete, Put, modified_at
from serve_rt.model.ids import DeploymentKey
from serve_rt.model.routes import DeploymentRoute
from serve_rt.wire.records import encode

log = logging.getLogger(__name__)
OPS_PER_TXN = 120
BYTES_PER_TXN = 512 * 1024
"""Far below etcd's 1.5 MiB a request: one action more must still fit."""
REPLICAS_PER_SHARD = 200

Ops = list[Put | Delete]


async def apply(
    actions: Sequence[Action], leadership: Leadership, keys: Keys, shards: Mapping[DeploymentKey, int]
) -> int:
    """Carry the actions out; the revision of the last write, 0 when nothing was written.

    *Errors*: FencedError and SessionLostError: stop acting. EtcdUnavailableError: settle, look again, then plan again.
    """
    revision = 0
    for ops, compares, done in _transactions(actions, keys, shards):
        result = await leadership.write(ops, compares)
        for action in done:
            words = describe(action) if result.succeeded else f"{describe(action)}: overtaken by a newer change"
            log.info("%s", words, extra={"action": type(action).__name__, "epoch": leadership.epoch})
        if result.succeeded:
            revision = result.revision
    return revision


def _transactions(
    actions: Sequence[Action], keys: Keys, shards: Mapping[DeploymentKey, int]
) -> Iterator[tuple[Ops, tuple[Compare, ...], list[Action]]]:
    ops: Ops = []
    done: list[Action] = []
    size = 0
    for action in actions:
        if isinstance(action, RemoveApp):
            continue
        more = operations(action, keys, shards)
        more_bytes = sum(len(op.value) for op in more if isinstance(op, Put))
        if ops and (len(ops) + len(more) > OPS_PER_TXN or size + more_bytes > BYTES_PER_TXN):
            yield ops, (), done
            ops, done, size = [], [], 0
        ops, size = ops + more, size + more_bytes
        done.append(action)
    if ops:
        yield ops, (), done
    for action in actions:  # last, each alone: it may be overtaken by a new deploy of the same name
        if isinstance(action, RemoveApp):
            key = keys.app(action.app)
            yield [Delete(key)], (modified_at(key, action.mod_revision),), [action]


def operations(action: Action, keys: Keys, shards: Mapping[DeploymentKey, int]) -> Ops:
    """What one action writes. `shards`: how many records each published route has now."""
    match action:
        case SaveVersion(version):
            return [Put(keys.version(version.spec.name, version.number), encode(version))]
        case SaveApplication(served):
            return [Put(keys.served(served.app), encode(served))]
        case RemoveVersion(app, number):
            return [Delete(keys.version(app, number))]
        case ForgetApplication(app):
            return [Delete(keys.served(app)), Delete(keys.versions_prefix(app), prefix=True)]
        case SaveDeployment(memory):
            return [Put(keys.deployment(memory.app, memory.deployment), encode(memory))]
        case CreateAssignment(assignment) | RewriteAssignment(assignment) | DrainAssignment(assignment):
            return [Put(keys.assign(assignment.node_id, assignment.replica_id), encode(assignment))]
        case DeleteAssignment(node, replica):
            return [Delete(keys.assign(node, replica))]
        case DeleteObserved(node, replica):
            return [Delete(keys.observed(node, replica))]
        case PublishRoute(route):
            return _publish(route, keys, shards.get(route.key, 0))
        case RemoveRoute(key):
            return [Delete(keys.routes_prefix(key.app, key.deployment), prefix=True)]
        case RemoveDeployment(key):
            return [Delete(keys.deployment(key.app, key.deployment))]
        case RemoveMark(node):
            return [Delete(keys.mark(node))]
        case RemoveApp(app):
            return [Delete(keys.app(app))]


def _publish(route: DeploymentRoute, keys: Keys, published_shards: int) -> Ops:
    starts = range(0, max(1, len(route.replicas)), REPLICAS_PER_SHARD)
    parts = [replace(route, replicas=route.replicas[start : start + REPLICAS_PER_SHARD]) for start in starts]
    ops: Ops = [Put(keys.routes(route.app, route.deployment, n), encode(part)) for n, part in enumerate(parts)]
    ops += [Delete(keys.routes(route.app, route.deployment, n)) for n in range(len(parts), published_shards)]
    return ops
