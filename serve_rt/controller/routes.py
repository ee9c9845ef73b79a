"""What proxies and handles are told about a deployment, from what agents observed. Pure; called by `reconcile`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from serve_rt.controller.census import Member, NodeStanding
from serve_rt.controller.plan import PublishRoute
from serve_rt.controller.rollout import is_guarded
from serve_rt.model.cluster import DeploymentMemory, RolloutPhase
from serve_rt.model.routes import Availability, DeploymentRoute, ReplicaRoute

MESSAGE_CHARS = 500


def desired_route(memory: DeploymentMemory, members: Iterable[Member]) -> DeploymentRoute:
    """`members` are those meant to answer: without the drained, with those on lost nodes (they become suspect)."""
    options = memory.target.options
    replicas = tuple(_replica_route(m) for m in sorted(members, key=lambda m: m.replica_id) if m.answers)
    failed = memory.phase is RolloutPhase.FAILED and not replicas
    return DeploymentRoute(
        app=memory.app,
        deployment=memory.deployment,
        replicas=replicas,
        availability=Availability.FAILED if failed else Availability.WAIT,
        message=memory.message[-MESSAGE_CHARS:] if failed else "",
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        backpressure_status=options.backpressure_status,
        backpressure_retry_after_s=options.backpressure_retry_after_s,
        retry_safe=options.retry_safe,
        guarded=is_guarded(memory),
        failures=options.failures,
    )


def publish_if_changed(published: DeploymentRoute | None, desired: DeploymentRoute) -> PublishRoute | None:
    if published == desired:
        return None
    return PublishRoute(desired, urgent=published is None or not _only_adds(published, desired))


def closed_route(published: DeploymentRoute) -> DeploymentRoute:
    """The route of a deployment that is being deleted."""
    return replace(published, replicas=(), availability=Availability.DELETING, message="it is being deleted")


def _only_adds(published: DeploymentRoute, desired: DeploymentRoute) -> bool:
    """One more replica beside others can wait 50 ms. The first cannot: somebody is waiting for it."""
    same_words = replace(published, replicas=()) == replace(desired, replicas=())
    return same_words and bool(published.replicas) and set(published.replicas) <= set(desired.replicas)


def _replica_route(member: Member) -> ReplicaRoute:
    assert member.observed is not None
    return ReplicaRoute(
        replica_id=member.replica_id,
        incarnation=member.observed.incarnation,
        address=member.observed.address,
        node_id=member.node_id,
        suspect=member.standing is NodeStanding.LOST,
        version=member.version,
    )
