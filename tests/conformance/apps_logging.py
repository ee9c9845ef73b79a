"""A deployment that writes to its log."""

from __future__ import annotations

import logging
import os

import serve_rt as serve
from tests.conformance.asking import LIGHT

log = logging.getLogger("ray.serve")


@serve.deployment(ray_actor_options=LIGHT)
class Talker:
    def say(self, text: str) -> int:
        log.debug("quietly %s", text)
        log.info("aloud %s", text)
        return os.getpid()
