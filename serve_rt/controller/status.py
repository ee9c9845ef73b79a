"""What `serve status` and `serve nodes` show, as functions of a Cluster.

Called by every agent from its own mirror, so that both verbs answer while there is no leader. The names and the words
are Ray's (scripts read them). Nothing here decides anything: phases come from the leader's memory, states from agents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from serve_rt.controller.census import most_vanished_at_once
from serve_rt.controller.history import version_overviews
from serve_rt.controller.placement import crowded
from serve_rt.controller.rollout import replicas_wanted
from serve_rt.controller.settings import ControlSettings
from serve_rt.controller.user_config import config_standing
from serve_rt.model.application import ApplicationMemory
from serve_rt.model.cluster import Cluster, DeploymentMemory, RolloutPhase
from serve_rt.model.ids import AppName, DeploymentKey, NodeId, deployment_of
from serve_rt.model.node import NodeMark, NodeRecord
from serve_rt.model.replica import Assignment, Goal, Observed, ReplicaState
from serve_rt.model.spec import ApplicationSpec, DeploymentSpec
from serve_rt.model.status import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    NodeOverview,
    NodesOverview,
    ProxyStatus,
    ReplicaOverview,
    ServeStatus,
)

UNKNOWN = "UNKNOWN"
"""State of a replica whose node is lost."""
_RAY_STATES: Mapping[ReplicaState, str] = {
    ReplicaState.STARTING: "STARTING",
    ReplicaState.BACKOFF: "STARTING",
    ReplicaState.READY: "RUNNING",
    ReplicaState.UNHEALTHY: "UNHEALTHY",
    ReplicaState.DRAINING: "STOPPING",
    ReplicaState.FAILED: "FAILED",
    ReplicaState.STOPPED: "STOPPING",
}
_TROUBLED = frozenset({ReplicaState.UNHEALTHY, ReplicaState.BACKOFF, ReplicaState.FAILED})
_PHASE_STATUS: Mapping[RolloutPhase, DeploymentStatus] = {
    RolloutPhase.ROLLING: DeploymentStatus.UPDATING,
    RolloutPhase.UPSCALING: DeploymentStatus.UPSCALING,
    RolloutPhase.DOWNSCALING: DeploymentStatus.DOWNSCALING,
    RolloutPhase.STEADY: DeploymentStatus.HEALTHY,
    RolloutPhase.FAILED: DeploymentStatus.DEPLOY_FAILED,
    RolloutPhase.ROLLING_BACK: DeploymentStatus.DEPLOY_FAILED,
    RolloutPhase.ROLLED_BACK: DeploymentStatus.DEPLOY_FAILED,
    RolloutPhase.DELETING: DeploymentStatus.UPDATING,
}


def build_status(cluster: Cluster, now_wall: float, age_s: float) -> ServeStatus:
    """The whole status; `age_s` is how old the caller's view of the store is, `now_wall` its time of day."""
    by_deployment = _group(cluster)
    return ServeStatus(
        proxies={node.node_id: _proxy_status(cluster, node) for node in cluster.nodes.values() if node.http_address},
        applications={
            name: _application(cluster, app.value, app.mod_revision, by_deployment)
            for name, app in sorted(cluster.apps.items())
        },
        target_capacity=_capacity(cluster),
        age_s=age_s,
        leader=cluster.leader.node_id if cluster.leader is not None else "",
        notes=tuple(_notes(cluster, age_s)),
    )


def build_nodes(cluster: Cluster) -> NodesOverview:
    replicas: dict[NodeId, list[ReplicaOverview]] = {}
    for replica, assignment in sorted(cluster.assignments.items()):
        overview = _assigned(cluster, assignment, cluster.observed.get(replica))
        replicas.setdefault(assignment.node_id, []).append(overview)
    for observed in sorted(cluster.unowned(), key=lambda o: o.replica_id):
        replicas.setdefault(observed.node_id, []).append(_unowned(observed))
    names = sorted(cluster.nodes.keys() | replicas.keys() | cluster.marks.keys())
    return NodesOverview(
        nodes=tuple(_node(cluster, name, tuple(replicas.get(name, ()))) for name in names),
        pending={f"{m.app}#{m.deployment}": m.pending for m in cluster.deployments.values() if m.pending},
        unowned=tuple(sorted(observed.replica_id for observed in cluster.unowned())),
    )


# --- applications -------------------------------------------------------------------------------------------------


def _group(cluster: Cluster) -> dict[DeploymentKey, list[tuple[Assignment, Observed | None]]]:
    groups: dict[DeploymentKey, list[tuple[Assignment, Observed | None]]] = {}
    for replica, assignment in cluster.assignments.items():
        groups.setdefault(assignment.key, []).append((assignment, cluster.observed.get(replica)))
    return groups


def _application(
    cluster: Cluster,
    app: ApplicationSpec,
    generation: int,
    groups: Mapping[DeploymentKey, list[tuple[Assignment, Observed | None]]],
) -> ApplicationStatusOverview:
    def overview(spec: DeploymentSpec, at: int) -> DeploymentStatusOverview:
        key = DeploymentKey(app.name, spec.name)
        return _deployment(cluster, app, at, spec, cluster.deployments.get(key), groups.get(key, []))

    serving, memory = cluster.serving(app.name) or app, cluster.served.get(app.name)
    taken_in = memory is not None and memory.generation == generation
    deployments = {str(spec.name): overview(spec, generation) for spec in app.deployments}
    for spec in serving.deployments:  # an update on its way, or refused: these still answer
        if app.deployment(spec.name) is None:
            known = cluster.deployments.get(DeploymentKey(app.name, spec.name))
            deployments[str(spec.name)] = overview(spec, known.generation if known is not None else generation)
    status, message = _worst(app, deployments)
    if taken_in and memory is not None and not app.deleting:
        if memory.refused:
            asked = (s for s in app.deployments if serving.deployment(s.name) != s)
            refused = {str(s.name): _refused(memory, deployments[str(s.name)]) for s in asked}
            status, message = _worst(app, deployments := {**deployments, **refused})
        elif status is ApplicationStatus.RUNNING and memory.serving != memory.asked:
            status = ApplicationStatus.DEPLOYING
    return ApplicationStatusOverview(
        status=status,
        message=message,
        last_deployed_time_s=app.deployed_at_s,
        deployments=deployments,
        deploy_id=app.deploy_id,
        route_prefix=app.route_prefix,
        config_json=app.config_json,
        import_path=app.import_path,
        versions=version_overviews(cluster, app.name),
        docs_path=_docs_path(groups.get(DeploymentKey(app.name, serving.ingress), [])),
    )


def _refused(memory: ApplicationMemory, found: DeploymentStatusOverview) -> DeploymentStatusOverview:
    """A deployment that the refused version would have, or have otherwise. What it is said of itself comes first."""
    if found.status is DeploymentStatus.DEPLOY_FAILED:
        return found
    failed = DeploymentStatusTrigger.REPLICA_STARTUP_FAILED
    return DeploymentStatusOverview(DeploymentStatus.DEPLOY_FAILED, failed, found.replica_states, memory.message)


def _docs_path(members: list[tuple[Assignment, Observed | None]]) -> str | None:
    return next((observed.docs_path for _, observed in members if observed and observed.docs_path), None)


def _worst(app: ApplicationSpec, deployments: Mapping[str, DeploymentStatusOverview]) -> tuple[ApplicationStatus, str]:
    """Ray's rank: DEPLOY_FAILED > UNHEALTHY > on the way > RUNNING."""
    if app.deleting:
        return ApplicationStatus.DELETING, ""
    failed = _named(deployments, DeploymentStatus.DEPLOY_FAILED)
    if failed:
        reasons = "\n".join(deployments[name].message for name in failed if deployments[name].message)
        return ApplicationStatus.DEPLOY_FAILED, f"Failed to update the deployments {failed}.\n{reasons}".strip()
    unhealthy = _named(deployments, DeploymentStatus.UNHEALTHY)
    if unhealthy:
        return ApplicationStatus.UNHEALTHY, f"The deployments {unhealthy} are UNHEALTHY."
    if any(_on_the_way(overview) for overview in deployments.values()):
        return ApplicationStatus.DEPLOYING, ""
    return ApplicationStatus.RUNNING, ""


def _named(deployments: Mapping[str, DeploymentStatusOverview], status: DeploymentStatus) -> list[str]:
    return [name for name, overview in deployments.items() if overview.status is status]


def _on_the_way(overview: DeploymentStatusOverview) -> bool:
    if overview.status is DeploymentStatus.UPDATING:
        return True
    scaling = overview.status in (DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING)
    return scaling and overview.status_trigger is DeploymentStatusTrigger.CONFIG_UPDATE_STARTED


def _deployment(
    cluster: Cluster,
    app: ApplicationSpec,
    generation: int,
    spec: DeploymentSpec,
    memory: DeploymentMemory | None,
    members: Iterable[tuple[Assignment, Observed | None]],
) -> DeploymentStatusOverview:
    members = list(members)
    states = Counter(_ray_state(cluster, assignment, observed) for assignment, observed in members)
    if app.deleting:
        return DeploymentStatusOverview(DeploymentStatus.UPDATING, DeploymentStatusTrigger.DELETING, states)
    if memory is None or memory.generation != generation:  # the leader has not taken this deploy in yet
        started = DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
        return DeploymentStatusOverview(DeploymentStatus.UPDATING, started, states)
    status, trigger, message = _PHASE_STATUS[memory.phase], memory.trigger, _join(memory.message, memory.pending)
    trouble = _trouble(members)
    if memory.phase is RolloutPhase.STEADY and states["RUNNING"] < replicas_wanted(memory):
        status, trigger = DeploymentStatus.UNHEALTHY, DeploymentStatusTrigger.HEALTH_CHECK_FAILED
        message = _join(message, trouble or _missing(states, memory))
    elif memory.phase is RolloutPhase.STEADY and memory.target.version == spec.version:
        config = config_standing(spec, members)
        if config.refused is not None:
            status, trigger = DeploymentStatus.DEPLOY_FAILED, DeploymentStatusTrigger.REPLICA_STARTUP_FAILED
            message = _join(f"Its replicas go on with the former user_config: {config.refused}", message)
        elif config.behind:
            status, trigger = DeploymentStatus.UPDATING, DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
    elif memory.phase is RolloutPhase.ROLLING and trouble:
        message = _join(f"A replica failed to start. It is tried again. Error:\n{trouble}", message)
    message = _join(message, crowded(memory.target.options, [a for a, _ in members], cluster.nodes))
    return DeploymentStatusOverview(status, trigger, states, message)


def _ray_state(cluster: Cluster, assignment: Assignment, observed: Observed | None) -> str:
    if assignment.node_id not in cluster.nodes:
        return UNKNOWN
    if assignment.goal is Goal.DRAIN:
        return "STOPPING"
    return _RAY_STATES[observed.state] if observed is not None else "STARTING"


def _trouble(members: Iterable[tuple[Assignment, Observed | None]]) -> str:
    """The last traceback or reason among the replicas, newest first."""
    troubled = [o for a, o in members if o is not None and o.state in _TROUBLED and a.goal is Goal.RUN and o.message]
    return max(troubled, key=lambda o: o.since_s).message if troubled else ""


def _missing(states: Counter[str], memory: DeploymentMemory) -> str:
    wanted = replicas_wanted(memory)
    return f"{states['RUNNING']} of {wanted} replicas are ready; the others are being restarted or replaced."


def _join(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _capacity(cluster: Cluster) -> float | None:
    """Of the applications that came by a file; the same for all of them unless one was deployed by hand since."""
    given = {app.value.target_capacity for app in cluster.apps.values()} - {None}
    return max((percent for percent in given if percent is not None), default=None)


# --- nodes --------------------------------------------------------------------------------------------------------


def _proxy_status(cluster: Cluster, node: NodeRecord) -> ProxyStatus:
    return ProxyStatus.DRAINING if cluster.mark(node.node_id) is NodeMark.DRAINING else ProxyStatus.HEALTHY


def _notes(cluster: Cluster, age_s: float) -> Iterable[str]:
    if cluster.leader is None:
        yield "there is no controller leader: changes wait for one"
    if age_s > 15.0:
        yield f"the store has not been heard of for {age_s:.0f} s: this is the last known state"
    for node in sorted(cluster.gone_since):
        yield f"node {node} is not registered: its replicas are {UNKNOWN}"
    if most_vanished_at_once(cluster, max(cluster.gone_since.values(), default=0.0), ControlSettings()):
        yield (
            "more than half of the nodes vanished at once, so the network is to blame before they are: nothing of them "
            "is replaced until half are back. Of those that will not return: serve nodes forget NODE"
        )
    unowned = sorted(observed.replica_id for observed in cluster.unowned())
    if unowned:
        yield f"running without an assignment (deploy their application to adopt them): {', '.join(unowned)}"
    unknown_apps = {deployment_of(replica).app for replica in cluster.assignments} - cluster.apps.keys()
    for app in sorted(unknown_apps):
        yield f"application {AppName(app)} has replicas but no record: they are left alone"


def _node(cluster: Cluster, name: NodeId, replicas: tuple[ReplicaOverview, ...]) -> NodeOverview:
    record = cluster.nodes.get(name)
    mark = cluster.mark(name).value
    if record is None:
        return NodeOverview(name, "", alive=False, mark=mark, milli_cpu=0, memory_bytes=0, replicas=replicas)
    return NodeOverview(
        node_id=name,
        address=record.address,
        alive=True,
        mark=mark,
        milli_cpu=record.resources.milli_cpu,
        memory_bytes=record.resources.memory_bytes,
        gpus=tuple(gpu.uuid for gpu in record.resources.gpus),
        labels=record.labels,
        replicas=replicas,
        gpu_names={gpu.uuid: gpu.name + _quarantine(record, gpu.uuid) for gpu in record.resources.gpus},
        http_address=record.http_address,
        is_leader=cluster.leader is not None and cluster.leader.node_id == name,
    )


def _quarantine(record: NodeRecord, uuid: str) -> str:
    return f" (quarantined: {record.quarantined[uuid]})" if uuid in record.quarantined else ""


def _assigned(cluster: Cluster, assignment: Assignment, observed: Observed | None) -> ReplicaOverview:
    return ReplicaOverview(
        replica_id=assignment.replica_id,
        state=_ray_state(cluster, assignment, observed),
        incarnation=observed.incarnation if observed is not None else 0,
        pid=observed.pid if observed is not None else 0,
        milli_cpu=assignment.spec.options.resources.milli_cpu,
        devices={share.uuid: share.milli for share in assignment.devices},
        message=observed.message if observed is not None else "",
        address=observed.address if observed is not None else "",
    )


def _unowned(observed: Observed) -> ReplicaOverview:
    return ReplicaOverview(
        replica_id=observed.replica_id,
        state="UNOWNED",
        incarnation=observed.incarnation,
        pid=observed.pid,
        devices={share.uuid: share.milli for share in observed.devices},
        message=observed.message,
        address=observed.address,
    )
