"""A deployment that says which process it is, under its own name in several cases."""

from __future__ import annotations

import os

import serve_rt as serve
from tests.conformance.asking import LIGHT


@serve.deployment(ray_actor_options=LIGHT)
class Process:
    def __init__(self, word: str = "") -> None:
        self.word = word

    def pid(self) -> int:
        return os.getpid()

    def env(self, name: str) -> str | None:
        return os.environ.get(name)

    def get_word(self) -> str:
        return self.word
