"""The last versions of an application, for `serve history` and the status. Pure; called by `status`."""

from __future__ import annotations

from serve_rt.model.application import ApplicationMemory
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import AppName
from serve_rt.model.spec import ApplicationSpec
from serve_rt.model.status import VersionOverview, VersionState


def version_overviews(cluster: Cluster, app: AppName) -> tuple[VersionOverview, ...]:
    """Newest first."""
    memory = cluster.served.get(app)
    if memory is None or cluster.is_reborn(app, memory.generation):
        return ()
    versions = cluster.versions.get(app, {})
    return tuple(_overview(memory, number, spec) for number, spec in sorted(versions.items(), reverse=True))


def _overview(memory: ApplicationMemory, number: int, spec: ApplicationSpec) -> VersionOverview:
    return VersionOverview(
        number=number,
        state=_state(memory, number),
        deployed_time_s=spec.deployed_at_s,
        ingress=spec.ingress,
        deployments={str(one.name): str(one.version) for one in spec.deployments},
        import_path=spec.import_path,
        restores=spec.restores,
        message=memory.refusals.get(number, ""),
    )


def _state(memory: ApplicationMemory, number: int) -> VersionState:
    if number in memory.refusals:
        return VersionState.REFUSED
    if number == memory.serving and (memory.good or memory.serving != memory.asked):
        return VersionState.SERVING
    if number == memory.asked:
        return VersionState.ASKED
    return VersionState.GOOD if number in memory.good else VersionState.SUPERSEDED
