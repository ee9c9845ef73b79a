"""Order down for what nobody asks for any more: route away, drain, records away. Pure; called by `application`."""

from __future__ import annotations

from serve_rt.controller.census import Member, NodeStanding
from serve_rt.controller.draft import Draft, runs
from serve_rt.controller.plan import PublishRoute, RemoveDeployment, RemoveRoute, SaveDeployment
from serve_rt.controller.rollout import enter
from serve_rt.controller.routes import closed_route
from serve_rt.model.cluster import RolloutPhase
from serve_rt.model.ids import DeploymentKey, deployment_of
from serve_rt.model.replica import Goal
from serve_rt.model.status import DeploymentStatusTrigger


def remove_deployment(draft: Draft, key: DeploymentKey) -> bool:
    """One step towards nothing; True when this plan leaves nothing of the deployment."""
    left = [m for m in draft.census.members.get(key, ()) if not _let_go(draft, m)]
    if left:
        _close(draft, key)
        return False
    if key in draft.cluster.routes:
        draft.actions.append(RemoveRoute(key))
    if key in draft.cluster.deployments:
        draft.actions.append(RemoveDeployment(key))
    return True


def _close(draft: Draft, key: DeploymentKey) -> None:
    route, memory = draft.cluster.routes.get(key), draft.cluster.deployments.get(key)
    if route is not None and closed_route(route) != route:
        draft.actions.append(PublishRoute(closed_route(route), urgent=True))
    if memory is not None and memory.phase is not RolloutPhase.DELETING:
        trigger = DeploymentStatusTrigger.DELETING
        deleting = enter(memory, RolloutPhase.DELETING, draft.now_wall, message="", pending="", trigger=trigger)
        draft.actions.append(SaveDeployment(deleting))


def _let_go(draft: Draft, member: Member) -> bool:
    """True when nothing of the replica is left after this plan."""
    if member.standing in (NodeStanding.LOST, NodeStanding.GIVEN_UP):
        # Nobody waits ten minutes for a delete: if the node returns, its agent finds no assignment and stops it.
        if member.standing is NodeStanding.LOST:
            draft.forget(member, "nobody asks for it any more and its node is lost")
        return True
    if member.wanted:
        draft.drain(member, "nobody asks for it any more")
        return False
    if member.assignment is not None:
        return draft.finish_leaving(member)
    return _end_unowned(draft, member)


def _end_unowned(draft: Draft, member: Member) -> bool:
    """What runs without our word ends in order too, if we know enough to give it one."""
    memory = draft.cluster.deployments.get(deployment_of(member.replica_id))
    if memory is not None and member.confirmed and runs(member):
        draft.adopt(member, memory.target, Goal.DRAIN)
        return False
    return True
