"""A replica's page of metrics: what it counted of its requests, the models it holds, and what user code counts.

Called by `serve_rt.replica.service` for the agent, off the main loop: making the page takes a moment, and the first one
loads prometheus-client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from serve_rt.model.ids import DeploymentKey
from serve_rt.observe import user_metrics
from serve_rt.observe.exposition import counter, gauge, latency, text_of
from serve_rt.observe.measures import measures
from serve_rt.observe.request_counts import Labels, RequestCounts
from serve_rt.replica.dispatch import Dispatch
from serve_rt.transport.server import StreamService

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_ORIGIN = user_metrics.ORIGIN_TAGS


class Exposition:
    def __init__(self, origin: Labels, counts: RequestCounts, dispatch: Dispatch, service: StreamService) -> None:
        self._origin = origin
        """Application, deployment, replica."""
        self._counts, self._dispatch, self._service = counts, dispatch, service

    def text(self, calls: Mapping[DeploymentKey, int], demand: Mapping[DeploymentKey, tuple[int, int]]) -> bytes:
        """From any thread. `calls` and `demand`: of this replica's handles, as serve_rt.handle.runtime counts them."""
        requests, errors = Counter[Labels](), Counter[Labels]()
        for (route, status), series in list(self._counts.series.items()):
            requests[(*self._origin, route)] += series.count
            if status == "ERROR" or status[:1] == "5":
                errors[(*self._origin, route)] += series.count
        models = self._service.models
        routed, here = (*_ORIGIN, "route"), {self._origin: float(self._dispatch.ongoing)}
        return text_of(
            [
                counter("serve_deployment_request_counter", "Queries processed by this replica.", routed, requests),
                counter("serve_deployment_error_counter", "Queries that failed in this replica.", routed, errors),
                latency(
                    "serve_deployment_processing_latency_ms",
                    "The latency for queries to be processed.",
                    ("route", "status", *_ORIGIN),
                    self._counts,
                    self._origin,
                ),
                gauge("serve_replica_processing_queries", "Queries being processed now.", _ORIGIN, here),
                gauge("serve_num_multiplexed_models", "Models held here.", _ORIGIN, {self._origin: len(models)}),
                gauge(
                    "serve_registered_multiplexed_model_id",
                    "The models held here.",
                    (*_ORIGIN, "model_id"),
                    {(*self._origin, model): 1.0 for model in models},
                ),
                *self._of_handles(calls, demand),
                *measures.families(_ORIGIN, self._origin),
                *user_metrics.families(),
            ]
        )

    def _of_handles(
        self, calls: Mapping[DeploymentKey, int], demand: Mapping[DeploymentKey, tuple[int, int]]
    ) -> list[Metric]:
        """Their labels name the deployment that is called; `handle` is the replica that calls."""
        names, here = ("application", "deployment", "handle"), "#".join(self._origin)
        made: dict[Labels, float] = {(key.app, key.deployment, here): count for key, count in calls.items()}
        queued: dict[Labels, float] = {(key.app, key.deployment, here): both[0] for key, both in demand.items()}
        ongoing: dict[Labels, float] = {(key.app, key.deployment, here): both[1] for key, both in demand.items()}
        return [
            counter("serve_handle_request_counter", "Calls that were made with handles.", names, made),
            gauge("serve_deployment_queued_queries", "Calls that wait for a replica.", names, queued),
            gauge("serve_num_ongoing_requests_at_replicas", "Calls that replicas work on.", names, ongoing),
        ]
