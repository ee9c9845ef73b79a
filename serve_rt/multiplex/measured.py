"""What is counted of models, under Ray's names. Called by `cache`; which models are held is told by `held`."""

from __future__ import annotations

from serve_rt.observe.measures import Measure, measures

_MS = (1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 60000.0, 300000.0)
_ASKED = Measure("serve_multiplexed_get_model_requests_counter", "How often a model was asked for.")
_LOADS = Measure("serve_multiplexed_models_load_counter", "Models that were loaded.")
_UNLOADS = Measure("serve_multiplexed_models_unload_counter", "Models that were unloaded.")
_LOAD = Measure("serve_multiplexed_model_load_latency_ms", "How long loading a model took.", (), _MS)
_UNLOAD = Measure("serve_multiplexed_model_unload_latency_ms", "How long unloading a model took.", (), _MS)


def asked() -> None:
    measures.count(_ASKED)


def loaded(took_s: float) -> None:
    measures.count(_LOADS)
    measures.observe(_LOAD, took_s * 1000)


def unloaded(took_s: float) -> None:
    measures.count(_UNLOADS)
    measures.observe(_UNLOAD, took_s * 1000)
