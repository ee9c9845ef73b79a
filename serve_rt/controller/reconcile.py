"""`reconcile(cluster, now, settings) -> Plan`: what to do next, from what is wanted and what is observed.

Pure: no clock, no I/O, no memory of its own; the same arguments give the same plan. Called by `loop` at each change;
the plan goes to `apply`, and what comes of it returns as observations. The walk: census (who is where) → room (what is
free) → each deployment (`deployment`, or `removal`) → nodes given up.

Applications without a record are left alone: nothing is stopped for want of a record.
"""

from __future__ import annotations

from collections.abc import Iterable

from serve_rt.controller.census import NodeStanding, take_census
from serve_rt.controller.deployment import plan_deployment
from serve_rt.controller.draft import Draft
from serve_rt.controller.plan import Plan, order
from serve_rt.controller.removal import remove_app, remove_deployment
from serve_rt.controller.room import measure_room
from serve_rt.controller.settings import ControlSettings
from serve_rt.errors import InvalidTransition
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import AppName, DeploymentKey


def reconcile(cluster: Cluster, now: float, settings: ControlSettings, now_wall: float = 0.0) -> Plan:
    """The next actions; none when the cluster is settled. `now` is monotonic, `now_wall` is for display only."""
    census = take_census(cluster, now, settings)
    draft = Draft(cluster, census, measure_room(cluster, census), settings, now, now_wall)
    unfinished: set[AppName] = set()
    for key in sorted(_keys(cluster, census.members)):
        app = cluster.apps.get(key.app)
        if app is None:
            continue
        spec = None if app.value.deleting else app.value.deployment(key.deployment)
        planned = len(draft.actions)
        try:
            if spec is not None:
                plan_deployment(draft, key, spec, app.mod_revision)
            elif not remove_deployment(draft, key):
                unfinished.add(key.app)
        except InvalidTransition as error:  # our bug: it must not stop the other deployments
            del draft.actions[planned:]
            draft.notes.append(f"{key} is left as it is: {error}")
            unfinished.add(key.app)
    for name, app in cluster.apps.items():
        if app.value.deleting and name not in unfinished:
            remove_app(draft, name)
    _forget_given_up(draft)
    return _finished(draft)


def _keys(cluster: Cluster, members: Iterable[DeploymentKey]) -> set[DeploymentKey]:
    asked = {key for app in cluster.apps.values() for key in app.value.keys()}  # noqa: SIM118  # not a mapping
    return asked | cluster.deployments.keys() | cluster.routes.keys() | set(members)


def _forget_given_up(draft: Draft) -> None:
    for members in draft.census.members.values():
        for member in members:
            if member.standing is NodeStanding.GIVEN_UP:
                draft.forget(member, "its node is given up")


def _finished(draft: Draft) -> Plan:
    wakes = [wake for wake in (*draft.wakes, draft.census.wake_at) if wake is not None]
    notes = list(draft.notes)
    if draft.census.suspended:
        notes.append(
            "more than half of the nodes vanished at once: their replicas are not replaced until half are back"
        )
    return Plan(order(draft.actions), min(wakes, default=None), tuple(notes))
