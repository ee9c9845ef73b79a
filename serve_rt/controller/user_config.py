"""Have the replicas taken the user_config that is asked for? Pure; asked by `application` for the verdict, by `status`.

A new user_config is a light change: it restarts nothing, each agent hands it to the running process, whose
`reconfigure` may raise. Such a replica goes on with the former one, and the version is refused like one that does not
start: a replica that restarts later must find a config that was taken once, not the one that kills it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serve_rt.model.replica import Assignment, Goal, Observed, ReplicaState
from serve_rt.model.spec import DeploymentSpec


@dataclass(frozen=True, slots=True)
class ConfigStanding:
    behind: int
    """Replicas that serve and have not taken it."""
    refused: str | None
    """What one of these raised at it; None: nobody has."""


def config_standing(
    spec: DeploymentSpec, replicas: Iterable[tuple[Assignment | None, Observed | None]]
) -> ConfigStanding:
    asked = spec.options.user_config_json
    behind = [
        observed
        for assignment, observed in replicas
        if assignment is not None and observed is not None and _serves(assignment, observed, spec)
        if observed.user_config_json != asked
    ]
    words = next((o.config_error for o in behind if asked is not None and o.refused_user_config_json == asked), None)
    return ConfigStanding(len(behind), words)


def _serves(assignment: Assignment, observed: Observed, spec: DeploymentSpec) -> bool:
    ours = assignment.goal is Goal.RUN and assignment.spec.version == spec.version
    return ours and observed.state is ReplicaState.READY
