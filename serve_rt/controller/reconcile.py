"""`reconcile(cluster, now, settings) -> Plan`: what to do next, from what is wanted and what is observed.

Pure: no clock, no I/O, no memory of its own; the same arguments give the same plan. Called by `loop` at each change;
the plan goes to `apply`, and what comes of it returns as observations. The walk: census (who is where) → room (what is
free) → each application (`application`: its deployments by `deployment`, or `removal`) → nodes given up.

Applications without a record are left alone: nothing is stopped for want of a record.
"""

from __future__ import annotations

from collections.abc import Iterable

from serve_rt.controller.application import plan_application
from serve_rt.controller.census import NodeStanding, take_census
from serve_rt.controller.draft import Draft
from serve_rt.controller.plan import Plan, RemoveMark, order
from serve_rt.controller.room import measure_room
from serve_rt.controller.settings import ControlSettings
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import AppName, DeploymentKey
from serve_rt.model.node import NodeMark


def reconcile(cluster: Cluster, now: float, settings: ControlSettings, now_wall: float = 0.0) -> Plan:
    """The next actions; none when the cluster is settled. `now` is monotonic, `now_wall` is for display only."""
    census = take_census(cluster, now, settings)
    draft = Draft(cluster, census, measure_room(cluster, census), settings, now, now_wall)
    keys = _keys(cluster, census.members)
    for name in sorted(cluster.apps):
        plan_application(draft, name, keys.get(name, ()))
    _forget_given_up(draft)
    return _finished(draft)


def _keys(cluster: Cluster, members: Iterable[DeploymentKey]) -> dict[AppName, list[DeploymentKey]]:
    """What there is of each application, asked for or left over."""
    asked = {key for app in cluster.apps.values() for key in app.value.keys()}  # noqa: SIM118  # not a mapping
    grouped: dict[AppName, list[DeploymentKey]] = {}
    for key in sorted(asked | cluster.deployments.keys() | cluster.routes.keys() | set(members)):
        grouped.setdefault(key.app, []).append(key)
    return grouped


def _forget_given_up(draft: Draft) -> None:
    for members in draft.census.members.values():
        for member in members:
            if member.standing is NodeStanding.GIVEN_UP:
                draft.forget(member, "its node is given up")
    for node, record in draft.cluster.marks.items():
        gone = node not in draft.cluster.gone_since  # nothing is left of it, or it is registered again
        if record.mark is NodeMark.FORGOTTEN and gone:
            draft.actions.append(RemoveMark(node))


def _finished(draft: Draft) -> Plan:
    wakes = [wake for wake in (*draft.wakes, draft.census.wake_at) if wake is not None]
    notes = list(draft.notes)
    if draft.census.suspended:
        notes.append(
            "more than half of the nodes vanished at once: their replicas are not replaced until half are back"
        )
    return Plan(order(draft.actions), min(wakes, default=None), tuple(notes))
