"""What the leader remembers of an application as a whole: its versions, and which of them answers.

`/versions/<app>/<number>` holds the applications as they were asked for, the newest ones; `/served/<app>` says which
one is asked, which one the routes lead to, which ones were good. Written by `serve_rt.controller.application`; read by
every agent for the routes (an application's prefix, ingress and limits are those of the version that serves) and for
`serve history`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serve_rt.model.ids import AppName
from serve_rt.model.spec import ApplicationSpec

KEPT_APP_VERSIONS = 5


@dataclass(frozen=True, slots=True)
class AppVersion:
    """One version of an application, as it was asked for."""

    number: int
    """1, 2, 3 … within the life of the application."""
    spec: ApplicationSpec
    schema: int = 1


@dataclass(frozen=True, slots=True)
class ApplicationMemory:
    app: AppName
    generation: int
    """mod_revision of the application record that was taken in last."""
    asked: int
    serving: int
    """The version whose ingress, prefix and limits the routes have."""
    good: tuple[int, ...] = ()
    """Versions that were reached, newest first: the first one is what a bad version is rolled back to."""
    refused: bool = False
    """The asked version was rolled back from; not tried again before the next deploy."""
    message: str = ""
    refusals: Mapping[int, str] = field(default_factory=dict)
    """Versions that are known to be bad, and why."""
    first: int = 1
    """Of this life of the application: what a deleted one of the same name had is not returned to."""
    schema: int = 1

    @property
    def last_good(self) -> int | None:
        return self.good[0] if self.good else None

    def numbers(self) -> set[int]:
        """The versions that must be kept: the newest ones, and those that something leads to."""
        recent = range(max(self.first, self.asked - KEPT_APP_VERSIONS + 1), self.asked + 1)
        return {*recent, self.serving, *self.good[:1]}


def version_before(memory: ApplicationMemory) -> int | None:
    """Where a rollback leads that names no version: from a version on its way, or a refused one, to what serves; from
    a good one to the good one before it."""
    if memory.asked not in memory.good:
        return memory.last_good
    return memory.good[1] if len(memory.good) > 1 else None


def same_content(a: ApplicationSpec, b: ApplicationSpec) -> bool:
    """Asked twice for the same, whoever asked and when."""
    return _content(a) == _content(b)


def _content(spec: ApplicationSpec) -> ApplicationSpec:
    return replace(
        spec,
        deploy_id="",
        deployed_at_s=0.0,
        past_deploy_ids=(),
        deleting=False,
        reborn_at=0,
        restores=0,
        config_json="",
        import_path="",
    )
