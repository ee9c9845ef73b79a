"""`serve.metrics`, as Ray Serve programs import it. The classes live in serve_rt.observe.user_metrics."""

from __future__ import annotations

from serve_rt.observe.user_metrics import Counter, Gauge, Histogram

__all__ = ["Counter", "Gauge", "Histogram"]
