"""What the user wants: applications of deployments, as written to `/apps/<app>` and copied into assignments.

Built by the API from `bind()`, validated there; the controller and agents take it as it is. User code and arguments are
never in here, only digests of the blobs that hold them: the control plane cannot unpickle what it does not have.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_rt.model.ids import AppName, BlobDigest, DeploymentKey, DeploymentName, VersionId
from serve_rt.model.resources import Resources
from serve_rt.model.routes import FailureRule

DEFAULT_MAX_ONGOING_REQUESTS = 100


class Placement(enum.Enum):
    SPREAD = "SPREAD"
    PACK = "PACK"


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """An autoscaling policy of the user's own; it runs in a process of its own on the leader's machine."""

    name: str
    """Import path `module:name`."""
    kwargs_json: str = "{}"
    payload: BlobDigest | None = None
    """Blob with the pickled callable where it was given as an object; None: imported by its name."""


@dataclass(frozen=True, slots=True)
class AutoscalingOptions:
    """Ray's knobs and defaults; the policy acts on them, a fixed deployment has None instead."""

    min_replicas: int = 1
    max_replicas: int = 1
    initial_replicas: int | None = None
    target_ongoing_requests: float = 2.0
    metrics_interval_s: float = 10.0
    look_back_period_s: float = 30.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    aggregation_function: str = "mean"
    policy: PolicySpec | None = None
    """None: follow target_ongoing_requests."""

    def start_replicas(self) -> int:
        return self.initial_replicas if self.initial_replicas is not None else max(1, self.min_replicas)


QUEUE_TIMEOUT_S = 60.0
"""How long an HTTP request waits for a slot, unless its application says otherwise."""
MAX_BODY_BYTES = 1 << 30
"""Of an HTTP request, unless its application says otherwise."""


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """A new version that is worse than the old one while both serve is rolled back."""

    error_rate: float | None = 0.05
    """How much larger its share of failed requests may be; None: errors are not looked at."""
    latency_factor: float | None = None
    """How many times slower its slow answers (p99) may be; None: latencies are not looked at."""
    window_s: float = 10.0
    """How long its first replica serves beside the old ones before more of it are started."""


@dataclass(frozen=True, slots=True)
class LoggingOptions:
    """What a replica's log looks like; a light change."""

    encoding: str = "TEXT"
    """TEXT or JSON."""
    level: str = "INFO"
    logs_dir: str | None = None
    """Log records go to a file of the replica's own in here; None: to the node's log of the replica."""
    access_log: bool = True
    standard_attributes: tuple[str, ...] = ()
    """Attributes of `logging.LogRecord` that are added to each line."""


@dataclass(frozen=True, slots=True)
class DeploymentOptions:
    """Options of one deployment. Times in seconds. See `serve.deployment` for what each one does."""

    num_replicas: int = 1
    autoscaling: AutoscalingOptions | None = None
    max_ongoing_requests: int = DEFAULT_MAX_ONGOING_REQUESTS
    max_queued_requests: int = -1
    backpressure_status: int = 503
    backpressure_retry_after_s: float | None = None
    resources: Resources = field(default_factory=Resources)
    env_vars: Mapping[str, str] = field(default_factory=dict)
    user_config_json: str | None = None
    max_replicas_per_node: int | None = None
    placement: Placement = Placement.SPREAD
    labels: Mapping[str, str] = field(default_factory=dict)
    """Node labels that must match: `value`, `!value`, `in(a,b)` or `!in(a,b)`."""
    spread_label: str = ""
    """Failure domains are the nodes' values of this label; replicas are spread evenly over them."""
    spread_min_domains: int = 1
    """No domain holds more than 1/so many of the replicas, so losing one domain leaves the rest."""
    spread_hard: bool = False
    """Replicas that would break that stay pending; else they crowd, and status says so."""
    graceful_shutdown_wait_loop_s: float = 2.0
    graceful_shutdown_timeout_s: float = 20.0
    health_check_period_s: float = 10.0
    health_check_timeout_s: float = 30.0
    health_check_failure_threshold: int = 3
    startup_timeout_s: float = 600.0
    stuck_timeout_s: float = 300.0
    max_constructor_retry_count: int = 20
    max_surge_percent: int = 25
    max_unavailable: int = 1
    progress_deadline_s: float = 600.0
    guard: GuardOptions | None = None
    logging: LoggingOptions = field(default_factory=LoggingOptions)
    routing_stats_period_s: float = 10.0
    """How often `record_routing_stats` is asked."""
    routing_stats_timeout_s: float = 30.0
    failures: FailureRule | None = None
    """Which answers take a replica out of rotation; None: none do. A light change."""
    retry_safe: bool | None = None
    """None: by HTTP method or Idempotency-Key; handle calls then are not."""


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """One deployment, complete: an agent can start it from this and the two blobs alone."""

    name: DeploymentName
    version: VersionId
    payload: BlobDigest
    """Blob with the pickled callable and its arguments; opened by the replica process only."""
    code: BlobDigest | None
    """Blob with a zip of the driver's import root, first on the replica's sys.path; None: code is installed."""
    options: DeploymentOptions = field(default_factory=DeploymentOptions)
    is_ingress: bool = False
    python_version: str = ""
    """`3.11` of the driver; the replica refuses another one, pickles do not travel between them."""
    cloudpickle_version: str = ""
    code_root: str = ""
    """The folder that the zip was made of, on the machine of who deployed it: not part of the version."""


@dataclass(frozen=True, slots=True)
class ApplicationSpec:
    """One application; the record under `/apps/<app>`."""

    name: AppName
    deploy_id: str
    """Made by the client, the same for every retry of one deploy."""
    ingress: DeploymentName
    deployments: tuple[DeploymentSpec, ...]
    route_prefix: str | None = "/"
    """None: not reachable over HTTP."""
    deleting: bool = False
    """True from `serve delete` until the last replica is gone; then the record goes too."""
    deployed_at_s: float = 0.0
    """Wall clock, for display."""
    request_timeout_s: float | None = None
    queue_timeout_s: float = QUEUE_TIMEOUT_S
    body_buffer_bytes: int = 1 << 20
    max_body_bytes: int = MAX_BODY_BYTES
    import_path: str = ""
    config_json: str = ""
    """What the configuration file said of it; "" for one that was not deployed by a file."""
    past_deploy_ids: tuple[str, ...] = ()
    """The deploys before this one, newest first: one that is asked again must not undo what came after it."""
    reborn_at: int = 0
    """Revision at which an application of this name was last deleted: what ran before is not part of this one."""
    target_capacity: float | None = None
    """In percent; the numbers of replicas in here are adjusted to it already."""
    capacity_rising: bool = False
    autoscaling_policy: PolicySpec | None = None
    """Decides for all deployments of the application that scale, instead of their own policies."""
    handle_queue_timeout_s: float | None = None
    """`queue_timeout_s` where it was given: then it holds for calls of handles too."""
    restores: int = 0
    """The number of the version that a rollback asked for; 0: this was asked for by a deploy."""
    schema: int = 1

    def deployment(self, name: DeploymentName) -> DeploymentSpec | None:
        return next((spec for spec in self.deployments if spec.name == name), None)

    def keys(self) -> tuple[DeploymentKey, ...]:
        return tuple(DeploymentKey(self.name, spec.name) for spec in self.deployments)
