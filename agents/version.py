"""Which version of the package this is, as registered and shown."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def software() -> str:
    try:
        return f"serve-rt {importlib.metadata.version('serve-rt')}"
    except importlib.metadata.PackageNotFoundError:  # run from a plain checkout
        return "serve-rt (not installed)"
