"""`reconcile(cluster, now, settings) -> Plan`: what to do next, from what is wanted and what is observed.

Pure: no clock, no I/O, no memory of its own; the same arguments give the same plan. Called by `loop` at each change;
the plan goes to `apply`, and what comes of it returns as observations. The walk: census (who is where) → room (what is
free) → each application (`application`: its deployments by `deployment`, or `removal`) → nodes given up.

Applications without a record are left alone: nothing is stopped for want of a record.

`look_again` is the same for who has kept what the last look has left (`resting.Past`): only what has changed since is
taken apart. The plan is the same; a look without a past costs more, and is taken now and then all the same (`loop`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_rt.controller.application import plan_application
from serve_rt.controller.census import NodeStanding, take_census
from serve_rt.controller.draft import Draft
from serve_rt.controller.plan import Plan, RemoveMark, order
from serve_rt.controller.resting import Past, Rest, seen_of
from serve_rt.controller.settings import ControlSettings
from serve_rt.model.cluster import Cluster
from serve_rt.model.ids import AppName, DeploymentKey
from serve_rt.model.node import NodeMark


def reconcile(cluster: Cluster, now: float, settings: ControlSettings, now_wall: float = 0.0) -> Plan:
    """The next actions; none when the cluster is settled. `now` is monotonic, `now_wall` is for display only."""
    return look_again(None, cluster, now, settings, now_wall).plan


@dataclass(frozen=True, slots=True)
class Looked:
    plan: Plan
    past: Past


def look_again(
    past: Past | None, cluster: Cluster, now: float, settings: ControlSettings, now_wall: float = 0.0
) -> Looked:
    """`reconcile`, and what the next look can start from. `past` is of the same settings, and not of a later time."""
    before = (past.cluster, past.census) if past is not None else None
    census = take_census(cluster, now, settings, before)
    draft = Draft(cluster, census, settings, now, now_wall)
    keys = _keys(cluster, census.members)
    resting = {}
    for name in sorted(cluster.apps):
        known = past.resting.get(name) if past is not None else None
        rest = _looked_at(draft, name, keys.get(name, ()), known)
        if rest is not None:
            resting[name] = rest
    _forget_given_up(draft)
    return Looked(_finished(draft), Past(cluster, census, resting))


def _looked_at(draft: Draft, name: AppName, keys: Sequence[DeploymentKey], known: Rest | None) -> Rest | None:
    """Plan the application unless nothing has changed for it; None when it is not at rest."""
    seen = seen_of(draft.cluster, draft.census, name, keys)
    if known is not None and known.holds(seen, draft.now):
        if known.wake_at is not None:
            draft.wakes.append(known.wake_at)
        return known
    done, woken, draft.restless = (len(draft.actions), len(draft.notes)), len(draft.wakes), False
    plan_application(draft, name, keys)
    if draft.restless or (len(draft.actions), len(draft.notes)) != done:
        return None
    return Rest(seen, min(draft.wakes[woken:], default=None))


def _keys(cluster: Cluster, members: Iterable[DeploymentKey]) -> dict[AppName, list[DeploymentKey]]:
    """What there is of each application, asked for or left over."""
    asked = {key for app in cluster.apps.values() for key in app.value.keys()}  # noqa: SIM118  # not a mapping
    grouped: dict[AppName, list[DeploymentKey]] = {}
    for key in sorted(asked | cluster.deployments.keys() | cluster.routes.keys() | set(members)):
        grouped.setdefault(key.app, []).append(key)
    return grouped


def _forget_given_up(draft: Draft) -> None:
    given_up = NodeStanding.GIVEN_UP in draft.census.standings.values()
    for members in draft.census.members.values() if given_up else ():
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
