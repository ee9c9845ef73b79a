"""Ray Serve's Python API: deployments, applications, run and status.

Some programs say `from serve_rt.api import Application` for what the face, `serve_rt`, has.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("Application", "Deployment"):
        from serve_rt.api import deployment

        return getattr(deployment, name)
    if name == "DeploymentHandle":
        from serve_rt.handle import DeploymentHandle

        return DeploymentHandle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
