"""The secret of simulated clusters: nobody else is on their wires."""

from __future__ import annotations

from serve_rt.credentials import ClusterToken

TOKEN = ClusterToken(bytes(32))
