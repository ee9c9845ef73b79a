"""What an application record must be before it is written: names, prefixes, options the leader could not place.

Pure; called by `api_server` for each deploy. The API checked most of it in the driver already; this is the border.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from serve_rt.controller.room import WHOLE
from serve_rt.errors import ConfigError, ConflictError, NotFoundError
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import NodeId
from serve_rt.model.node import NodeMark
from serve_rt.model.spec import ApplicationSpec, DeploymentSpec

MAX_NAME_CHARS = 200
MAX_RECORD_BYTES = 512 * 1024
_NAME = re.compile(r"[^/#\x00-\x1f\x7f]+")


def check_application(spec: ApplicationSpec, record_bytes: int) -> None:
    """*Errors*: ConfigError naming the value and the rule."""
    if not spec.name:
        raise ConfigError("Application name must a non-empty string.")
    check_name("application", spec.name)
    if not spec.deploy_id:
        raise ConfigError(f"the deploy of application {spec.name!r} has no deploy_id")
    if record_bytes > MAX_RECORD_BYTES:
        raise ConfigError(
            f"the record of application {spec.name!r} has {record_bytes} bytes, at most {MAX_RECORD_BYTES} fit: "
            "pass large arguments or user_config by a file or object store"
        )
    _check_prefix(spec.route_prefix)
    names = Counter(deployment.name for deployment in spec.deployments)
    for name, count in names.items():
        check_name("deployment", name)
        if count > 1:
            raise ConfigError(f"application {spec.name!r} has {count} deployments named {name!r}; names must differ")
    if spec.ingress not in names:
        raise ConfigError(f"application {spec.name!r} has no deployment {spec.ingress!r}, which is to be its ingress")
    for deployment in spec.deployments:
        _check_deployment(deployment)


def check_name(what: str, name: str) -> None:
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} name {name!r} is not allowed: 1 to {MAX_NAME_CHARS} characters, no '/', '#' or control characters"
        )


def check_prefix_is_free(spec: ApplicationSpec, others: Iterable[ApplicationSpec]) -> None:
    """*Errors*: ConflictError in Ray's words."""
    for other in others:
        if other.name == spec.name or spec.route_prefix is None or other.route_prefix != spec.route_prefix:
            continue
        going = ", which is being deleted: try again when it is gone" if other.deleting else ""
        raise ConflictError(
            f'Prefix {spec.route_prefix} is being used by application "{other.name}"{going}. '
            f'Failed to deploy application "{spec.name}".'
        )


def _check_prefix(prefix: str | None) -> None:
    if prefix is None:
        return
    if not prefix.startswith("/"):
        raise ConfigError(f"Invalid route_prefix '{prefix}', must start with '/'.")
    if prefix != "/" and prefix.endswith("/"):
        raise ConfigError(f"Invalid route_prefix '{prefix}', must not end with '/'.")
    if "{" in prefix or "}" in prefix:
        raise ConfigError(f"Invalid route_prefix '{prefix}', may not contain wildcards.")


def _check_deployment(spec: DeploymentSpec) -> None:
    options, asked = spec.options, spec.options.resources
    where = f"deployment {spec.name!r}"
    if options.num_replicas < 0:
        raise ConfigError(f"{where}: num_replicas={options.num_replicas} must not be negative")
    amounts = (asked.milli_cpu, asked.memory_bytes, asked.milli_gpu, asked.gpu_memory_bytes)
    if min(*amounts, *asked.custom.values(), 0) < 0:
        raise ConfigError(f"{where}: resources must not be negative: {asked}")
    if asked.milli_gpu > WHOLE and asked.milli_gpu % WHOLE:
        raise ConfigError(f"{where}: num_gpus={asked.milli_gpu / WHOLE:g}: above 1 only whole numbers can be given")
    if options.max_surge_percent < 0 or options.max_unavailable < 0:
        raise ConfigError(f"{where}: max_surge_percent and max_unavailable must not be negative")


def checked_mark(cluster: Cluster, node: str, mark: str) -> NodeMark:
    """*Errors*: NotFoundError naming the nodes there are; ConfigError for a mark that makes no sense there."""
    known = sorted({*cluster.nodes, *cluster.gone_since, *cluster.marks})
    if node not in known:
        raise NotFoundError(f"there is no node {node!r}; known: {', '.join(known) or 'none'}")
    if mark not in [one.value for one in NodeMark]:
        raise ConfigError(f"mark {mark!r} is not known: {', '.join(one.value for one in NodeMark)}")
    if NodeMark(mark) is NodeMark.FORGOTTEN and NodeId(node) in cluster.nodes:
        raise ConfigError(f"node {node!r} is registered and alive: `serve drain {node}`, then stop its agent")
    return NodeMark(mark)
