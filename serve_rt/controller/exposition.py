"""The leader's page of metrics: states of applications and deployments, what the autoscaler sees, and its own work.

Made when somebody asks (`api_server`, off the loop), under Ray's names; it stands on the page of the leader's node
only, so that a Prometheus that scrapes all nodes finds each series once. Pure but for the loading of prometheus-client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_rt.controller.status import build_status
from serve_rt.model.cluster import Cluster
from serve_rt.model.replica import Goal, ReplicaState
from serve_rt.model.scaling import ScalingOverview
from serve_rt.model.spec import DeploymentOptions
from serve_rt.model.status import ApplicationStatus, DeploymentStatus, ProxyStatus
from serve_rt.observe.exposition import counter, gauge, text_of
from serve_rt.observe.request_counts import Labels

APPLICATION_NUMBERS: Mapping[ApplicationStatus, int] = {
    ApplicationStatus.DEPLOY_FAILED: 1,
    ApplicationStatus.UNHEALTHY: 2,
    ApplicationStatus.NOT_STARTED: 3,
    ApplicationStatus.DELETING: 4,
    ApplicationStatus.DEPLOYING: 5,
    ApplicationStatus.RUNNING: 6,
}
"""Ray's; a person alarms below 6."""
DEPLOYMENT_NUMBERS: Mapping[DeploymentStatus, int] = {
    DeploymentStatus.DEPLOY_FAILED: 1,
    DeploymentStatus.UNHEALTHY: 2,
    DeploymentStatus.UPDATING: 3,
    DeploymentStatus.UPSCALING: 4,
    DeploymentStatus.DOWNSCALING: 5,
    DeploymentStatus.HEALTHY: 6,
}
PROXY_NUMBERS: Mapping[ProxyStatus, int] = {
    ProxyStatus.STARTING: 1,
    ProxyStatus.HEALTHY: 2,
    ProxyStatus.UNHEALTHY: 3,
    ProxyStatus.DRAINING: 4,
    ProxyStatus.DRAINED: 5,
}
_DEPLOYED = ("application", "deployment")


@dataclass(frozen=True, slots=True)
class Work:
    """What the control loop did in this term."""

    passes: int = 0
    last_pass_s: float = 0.0
    last_sleep_s: float = 0.0


def page(cluster: Cluster, scaling: ScalingOverview, work: Work, now_wall: float) -> bytes:
    status = build_status(cluster, now_wall, 0.0)
    applications: dict[Labels, float] = {}
    deployments: dict[Labels, float] = {}
    for name, application in status.applications.items():
        applications[(name,)] = APPLICATION_NUMBERS[application.status]
        for deployment, overview in application.deployments.items():
            deployments[(name, deployment)] = DEPLOYMENT_NUMBERS[overview.status]
    addresses = {str(one.node_id): one.http_address.rpartition(":")[0] for one in cluster.nodes.values()}
    proxies: dict[Labels, float] = {(node, addresses[node]): PROXY_NUMBERS[one] for node, one in status.proxies.items()}
    restarts = {one: count for one, (_, count) in _replicas(cluster).items()}
    healthy = {one: alive for one, (alive, _) in _replicas(cluster).items()}
    seen = {(one.app, one.deployment): one for one in scaling.deployments}
    asked: dict[Labels, DeploymentOptions] = {
        (key.app, key.deployment): memory.target.options for key, memory in cluster.deployments.items()
    }
    targets = {
        key: options.autoscaling.target_ongoing_requests for key, options in asked.items() if options.autoscaling
    }
    return text_of(
        [
            gauge("serve_application_status", _legend(APPLICATION_NUMBERS), ("application",), applications),
            gauge("serve_deployment_status", _legend(DEPLOYMENT_NUMBERS), _DEPLOYED, deployments),
            gauge("serve_proxy_status", _legend(PROXY_NUMBERS), ("node_id", "node_ip_address"), proxies),
            gauge("serve_deployment_replica_healthy", "1: the replica serves.", (*_DEPLOYED, "replica"), healthy),
            counter("serve_deployment_replica_starts", "Restarts after a failure.", (*_DEPLOYED, "replica"), restarts),
            gauge(
                "serve_autoscaling_target_replicas",
                "Replicas wanted now.",
                _DEPLOYED,
                {key: float(one.target) for key, one in seen.items()},
            ),
            gauge(
                "serve_autoscaling_desired_replicas",
                "What the target would come to if all stays as it is.",
                _DEPLOYED,
                {key: float(one.aim) for key, one in seen.items()},
            ),
            gauge(
                "serve_autoscaling_total_requests",
                "Requests queued and running, over the look-back period.",
                _DEPLOYED,
                {key: one.total for key, one in seen.items()},
            ),
            gauge("serve_autoscaling_target_ongoing_requests", "Wanted of each replica.", _DEPLOYED, targets),
            gauge("serve_controller_num_control_loops", "Passes in this term.", (), {(): float(work.passes)}),
            gauge("serve_controller_control_loop_duration_s", "Of the last pass.", (), {(): work.last_pass_s}),
            gauge("serve_controller_sleep_duration_s", "After the last pass.", (), {(): work.last_sleep_s}),
        ]
    )


def _replicas(cluster: Cluster) -> dict[Labels, tuple[float, float]]:
    """Of those that are to run: whether one serves, and its restarts."""
    found: dict[Labels, tuple[float, float]] = {}
    for replica, assignment in cluster.assignments.items():
        observed = cluster.observed.get(replica)
        if assignment.goal is Goal.RUN and observed is not None:
            labels = (assignment.app, assignment.key.deployment, replica.rpartition("#")[2])
            found[labels] = (float(observed.state is ReplicaState.READY), float(observed.restarts))
    return found


def _legend(
    numbers: Mapping[ApplicationStatus, int] | Mapping[DeploymentStatus, int] | Mapping[ProxyStatus, int],
) -> str:
    return ", ".join(f"{number} {status.value}" for status, number in numbers.items()) + "."
