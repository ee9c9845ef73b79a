"""Wait until what was asked for is true: an application runs, is gone, answers over HTTP."""

from __future__ import annotations

import http.client
import json
import logging
import time
from collections.abc import Iterator

from serve_rt.api.session import Session
from serve_rt.errors import UnavailableError
from serve_rt.model.spec import ApplicationSpec
from serve_rt.model.status import ApplicationStatus, ApplicationStatusOverview

log = logging.getLogger(__name__)
DELETE_TIMEOUT_S = 60.0
PROXY_TIMEOUT_S = 60.0
_SILENT_TIMEOUT_S = 60.0
"""How long the agent may be unreachable while we wait."""
_TELL_EVERY_S = 10.0


def pauses(timeout_s: float, longest_s: float = 0.25) -> Iterator[float]:
    """Sleep 10 ms, then a twentieth of the time spent so far, until `timeout_s` has passed; yields the time spent."""
    start = time.monotonic()
    while (spent_s := time.monotonic() - start) < timeout_s:
        yield spent_s
        time.sleep(min(longest_s, max(0.01, spent_s / 20)))


def start_limit_s(spec: ApplicationSpec) -> float:
    """After this long the leader itself must have given the deploy up."""
    slowest = max((one.options for one in spec.deployments), key=lambda o: o.progress_deadline_s + o.startup_timeout_s)
    return slowest.progress_deadline_s + slowest.startup_timeout_s + 30.0


def until_running(session: Session, spec: ApplicationSpec) -> None:
    """*Errors*: RuntimeError with the reason when the deploy failed or was overtaken by another one."""
    told_at_s, silent_since_s = 0.0, None
    overview: ApplicationStatusOverview | None = None
    for spent_s in pauses(start_limit_s(spec)):
        try:
            overview = session.run(session.client.status()).applications.get(spec.name)
            silent_since_s = None
        except UnavailableError:
            silent_since_s = spent_s if silent_since_s is None else silent_since_s
            if not session.may_live or spent_s - silent_since_s > _SILENT_TIMEOUT_S:
                raise
            continue
        if overview is None or overview.deploy_id != spec.deploy_id:
            continue  # the agent that answers has not heard of it yet
        if overview.status is ApplicationStatus.RUNNING:
            return
        if overview.status is ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError(f"Deploying application {spec.name} failed: {overview.message}")
        if overview.status is ApplicationStatus.DELETING:
            raise RuntimeError(f"Deploying application {spec.name} failed: it is being deleted.")
        if spent_s - told_at_s > _TELL_EVERY_S:
            told_at_s = spent_s
            log.info("waiting for application %r: %s", spec.name, _why(overview))
    reason = _why(overview) if overview is not None else "the cluster knows nothing of it"
    raise RuntimeError(f"Deploying application {spec.name} failed: not ready after {start_limit_s(spec):g} s: {reason}")


def _why(overview: ApplicationStatusOverview) -> str:
    parts = [
        f"{name} is {one.status} {dict(one.replica_states)} {one.message}".strip()
        for name, one in overview.deployments.items()
        if one.status != "HEALTHY"
    ]
    return "; ".join(parts) or str(overview.status)


def until_deleted(session: Session, names: list[str] | None) -> None:
    """*Errors*: TimeoutError after DELETE_TIMEOUT_S naming those that are still there; None stands for all."""
    left: list[str] = []
    for _ in pauses(DELETE_TIMEOUT_S):
        applications = session.run(session.client.status()).applications
        left = [name for name in (applications if names is None else names) if name in applications]
        if not left:
            return
    raise TimeoutError(f"Some of these applications weren't deleted after {DELETE_TIMEOUT_S:g}s: {left}")


def until_routed(http_address: str, spec: ApplicationSpec) -> None:
    """Until the proxy at `http_address` knows the application's prefix.

    *Errors*: TimeoutError after PROXY_TIMEOUT_S.
    """
    for _ in pauses(PROXY_TIMEOUT_S):
        if _routes(http_address).get(spec.route_prefix or "") == spec.name:
            return
    raise TimeoutError(f"HTTP proxies not available after {PROXY_TIMEOUT_S:g}s: {http_address} does not answer.")


def _routes(http_address: str) -> dict[str, str]:
    url = reachable(http_address)
    connection = http.client.HTTPConnection(url.partition("://")[2], timeout=2.0)
    if url.startswith("https"):
        from serve_rt.credentials.http_tls import probe_context  # where it is asked for

        connection = http.client.HTTPSConnection(url.partition("://")[2], timeout=2.0, context=probe_context())
    try:
        connection.request("GET", "/-/routes")
        answer = connection.getresponse()
        body = answer.read()
        found = json.loads(body) if answer.status == 200 else {}
        return found if isinstance(found, dict) else {}
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()


def reachable(http_address: str) -> str:
    """`http://host:port` to connect to, also when the proxy listens on all addresses.

    >>> reachable("0.0.0.0:8000"), reachable("https://10.0.0.1:8443")
    ('http://127.0.0.1:8000', 'https://10.0.0.1:8443')
    """
    scheme, separator, rest = http_address.rpartition("://")
    host, _, port = rest.rpartition(":")
    named = f"127.0.0.1:{port}" if host in ("0.0.0.0", "::", "[::]", "") else rest
    return f"{scheme if separator else 'http'}://{named}"
