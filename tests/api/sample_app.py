"""A module that stands for a user's: deployments at module level, imported by name."""

from __future__ import annotations

import threading
from typing import Any

import serve_rt as serve

LOCK = threading.Lock()
"""Cannot be pickled: a deployment that uses it must travel by name."""


class _Model:
    def __init__(self, size: int = 1, other: Any = None) -> None:
        self.size, self.other = size, other

    def __call__(self) -> int:
        with LOCK:
            return self.size


Model = serve.deployment(_Model)
"""As `@serve.deployment class Model` makes it, said so that mypy sees it: it does not follow decorators of classes."""
Model.func_or_class.__qualname__ = Model.func_or_class.__name__ = "Model"


@serve.deployment
def double(number: int) -> int:
    return 2 * number


app = Model.bind(3)


def build(args: dict[str, str]) -> serve.Application:
    return Model.bind(int(args.get("size", "1")))
