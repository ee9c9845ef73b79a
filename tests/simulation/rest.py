"""When a cluster is at rest: what is wanted is what there is, nothing is planned, and it answers.

Asked by `story` after all faults have healed. Reasons are sentences; none means rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve_rt.controller.reconcile import reconcile
from serve_rt.controller.rollout import replicas_wanted
from serve_rt.model.cluster import Cluster, DeploymentMemory, RolloutPhase
from serve_rt.model.ids import AppName, DeploymentKey
from serve_rt.model.replica import Goal
from serve_rt.model.spec import DeploymentSpec

if TYPE_CHECKING:
    from tests.simulation.replica import SimReplica
    from tests.simulation.world import SimWorld

RESTLESS = ("crashes",)
"""Last words of versions that never come to rest, by their own doing."""
NEVER_READY = ("raises", "stuck")


def not_settled(world: SimWorld) -> list[str]:
    reasons: list[str] = []
    cluster = world.cluster()
    if cluster.leader is None:
        return ["there is no leader"]
    if world.users.busy:
        reasons.append("a change is not answered")
    scaled = {
        key: memory.scale_target for key, memory in cluster.deployments.items() if memory.scale_target is not None
    }
    if plan := reconcile(cluster, world.now, world.settings):
        reasons.append(f"the plan is not empty (scaled: {scaled}): {plan.actions}")
    for app, wish in world.users.wishes.items():
        name = AppName(app)
        if wish.gone:
            reasons += [f"{app} is deleted and still there"] if name in cluster.apps else []
        elif name not in cluster.apps:
            reasons.append(f"{app} was deployed and nobody remembers")
        else:
            reasons += _differs(world, cluster, name)
    reasons += _strangers(world, cluster)
    every = [replica for machine in world.machines.values() for replica in machine.replicas]
    reasons += [f"{each} fails its check, and is kept" for each in every if each.ready and each.behaviour.unhealthy]
    reasons += [why for caller in world.callers for why in caller.behind(cluster)]
    if not any(caller.open for caller in world.callers):
        reasons += [left for caller in world.callers for left in caller.leftovers()]
        reasons += [f"I8: {r} counts {r.ongoing} requests, and nobody asks" for r in every if r.ongoing]
    return reasons


def _is_restless(memory: DeploymentMemory) -> bool:
    """Never at rest by its own doing: it crashes, or no start succeeds and demand asks for one (which ends no rollout:
    with no replicas wanted the version had long been taken)."""
    version, scaled = memory.target.version, memory.target.options.autoscaling is not None
    return version.endswith(RESTLESS) or (scaled and version.endswith(NEVER_READY))


def _differs(world: SimWorld, cluster: Cluster, app: AppName) -> list[str]:
    """Everything the application is made of, at the version that serves; nothing besides."""
    served = cluster.serving(app)
    if served is None:
        return [f"{app} serves nothing"]
    stood = cluster.served[app]
    wish = world.users.wishes[app]
    memories = [m for m in (cluster.deployments.get(key) for key in served.keys()) if m is not None]  # noqa: SIM118
    if any(_is_restless(memory) or memory.pending for memory in memories):
        return []
    reasons = []
    # One that never got ready does not come to serve, and with nothing good before it there is nothing to go back to.
    bad = any(memory.phase is RolloutPhase.FAILED for memory in memories)
    if stood.serving != stood.asked and not stood.refused and not bad:
        reasons.append(f"{app} serves version {stood.serving} and was asked for {stood.asked}")
    if stood.serving == stood.asked and not stood.refused and not wish.restored:
        asked = {spec.name: spec.version for spec in wish.specs}
        now = {spec.name: spec.version for spec in served.deployments}
        reasons += [f"{app} is at {now}, asked for was {asked}"] if asked != now and not reasons else []
    if stood.refused and all(not spec.version.endswith(NEVER_READY) for spec in wish.specs) and not wish.restored:
        world.happened["good version refused"] += 1
    for spec in served.deployments:
        reasons += _deployment_differs(world, cluster, DeploymentKey(app, spec.name), spec)
    return reasons


def _deployment_differs(world: SimWorld, cluster: Cluster, key: DeploymentKey, spec: DeploymentSpec) -> list[str]:
    memory = cluster.deployments.get(key)
    if memory is None:
        return [f"{key} was deployed and nobody remembers"]
    if memory.phase not in (RolloutPhase.STEADY, RolloutPhase.ROLLED_BACK, RolloutPhase.FAILED):
        return [f"{key} is {memory.phase.name}"]
    if memory.phase is RolloutPhase.STEADY and memory.target.version != spec.version:
        return [f"{key} is at {memory.target.version}, and {spec.version} serves"]
    if memory.phase is RolloutPhase.FAILED:
        return []
    running = _replicas(world, key)
    good = [r for r in running if r.ready and r.assignment.spec.version == memory.target.version]
    wanted = replicas_wanted(memory)
    if (len(good), len(running)) != (wanted, wanted):
        return [f"{key} wants {wanted} replicas of {memory.target.version}, has {running}"]
    route = cluster.routes.get(key)
    routed = {(r.replica_id, r.incarnation) for r in route.replicas} if route is not None else set()
    if routed != {(r.replica_id, r.incarnation) for r in good}:
        return [f"{key} is routed to {sorted(routed)}, ready are {good}"]
    return []


def _replicas(world: SimWorld, key: DeploymentKey) -> list[SimReplica]:
    every = (r for machine in world.machines.values() for r in machine.replicas)
    return [r for r in every if r.key == key]


def _strangers(world: SimWorld, cluster: Cluster) -> list[str]:
    """I7: every process has an assignment, and every record a process."""
    running = {r.replica_id for m in world.machines.values() for r in m.replicas}
    wanted = {r for r, assignment in cluster.assignments.items() if assignment.goal is Goal.RUN}
    reasons = [f"{replica} runs and nobody wants it" for replica in sorted(running - wanted)]
    reasons += [f"{replica} is on its way out" for replica in sorted(cluster.assignments.keys() - wanted)]
    reasons += [f"{replica} is observed and not assigned" for replica in sorted(cluster.observed.keys() - wanted)]
    for machine in world.machines.values():
        handles = {handle.name for handle in machine.launcher.handles.values()}
        reasons += [f"{name} has a handle and no assignment" for name in sorted(handles - {str(r) for r in wanted})]
    return reasons


def answering(world: SimWorld) -> list[DeploymentKey]:
    """What must answer a request now: steady, and able to."""
    cluster = world.cluster()
    return [
        key
        for key, memory in cluster.deployments.items()
        if memory.phase in (RolloutPhase.STEADY, RolloutPhase.ROLLED_BACK)
        and not memory.pending
        and key.app in cluster.apps
        and memory.target.version.rpartition("-")[2] not in (*RESTLESS, *NEVER_READY)
    ]
