"""One application as a whole: its versions, which of them answers, and in what order the rest goes. Pure.

Called by `reconcile` for each application; the deployments are planned one by one in `deployment`, taken down in
`removal`. An update is one step for the application: until all deployments of the asked version are reached, the routes
lead to the version that served before, and everything that one is made of stays, also what the new version does not
have any more. A version with a deployment that is refused is refused as a whole: the last good one is the target again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from serve_rt.controller.deployment import plan_deployment
from serve_rt.controller.draft import Draft
from serve_rt.controller.giving_way import gives_way, should_lead
from serve_rt.controller.plan import ForgetApplication, RemoveApp, RemoveVersion, SaveApplication, SaveVersion
from serve_rt.controller.removal import remove_deployment
from serve_rt.controller.rollout import first_memory
from serve_rt.controller.user_config import ConfigStanding, config_standing
from serve_rt.errors import InvalidTransition
from serve_rt.model.application import KEPT_APP_VERSIONS, ApplicationMemory, AppVersion, same_content
from serve_rt.model.cluster import DeploymentMemory, RolloutPhase, Versioned
from serve_rt.model.ids import AppName, DeploymentKey
from serve_rt.model.spec import ApplicationSpec, DeploymentSpec

_BAD = frozenset({RolloutPhase.FAILED, RolloutPhase.ROLLING_BACK, RolloutPhase.ROLLED_BACK})
_UNREACHED = _BAD | {RolloutPhase.ROLLING, RolloutPhase.DELETING}


def plan_application(draft: Draft, name: AppName, keys: Iterable[DeploymentKey]) -> None:
    app = draft.cluster.apps[name]
    if app.value.deleting:
        _delete(draft, app, keys)
        return
    stored = draft.cluster.served.get(name)
    memory = _taken_in(draft, app, stored)
    target = _target(draft, memory, app.value)
    states = _bring_about(draft, target, app.mod_revision, memory.message if memory.refused else "")
    needed = draft.cluster.versions.get(name, {}).get(memory.serving, target)
    others = [key for key in keys if target.deployment(key.deployment) is None]
    kept = [key for key in others if needed.deployment(key.deployment) is not None]
    kept = _callers_first(draft, name, kept)[::-1]
    giving_way = gives_way(draft, target, needed, states or (), kept)
    kept_states = {key: _keep(draft, key, needed, memory.generation, int(key == giving_way)) for key in kept}
    if states is not None:
        memory = _judged(draft, memory, target, needed, states)
        if memory.serving != memory.asked and not memory.refused and should_lead(draft, target, needed, kept_states):
            memory = replace(memory, serving=memory.asked)
    _save(draft, memory, stored)
    _take_down(draft, name, [key for key in others if needed.deployment(key.deployment) is None])


# --- what is asked, and what is brought about -----------------------------------------------------------------------


def _taken_in(draft: Draft, app: Versioned[ApplicationSpec], stored: ApplicationMemory | None) -> ApplicationMemory:
    """The memory after a deploy: a version of its own, unless it asks for the very same again."""
    if stored is not None and stored.generation == app.mod_revision:
        return stored
    name, versions = app.value.name, draft.cluster.versions.get(app.value.name, {})
    if stored is None or stored.generation < app.value.reborn_at:
        number = max(versions, default=0) + 1
        memory = ApplicationMemory(name, app.mod_revision, asked=number, serving=number, first=number)
    else:
        before = versions.get(stored.asked)
        again = before is not None and same_content(before, app.value)
        number = stored.asked if again else stored.asked + 1
        memory = replace(stored, generation=app.mod_revision, asked=number, refused=False, message="")
        if not draft.settings.handover or not _was_good_or_serves(draft, memory, versions):
            memory = replace(memory, serving=number)
    memory = replace(memory, refusals={n: why for n, why in memory.refusals.items() if n != number})
    draft.actions.append(SaveVersion(AppVersion(number, app.value)))
    return memory


def _was_good_or_serves(draft: Draft, memory: ApplicationMemory, versions: Mapping[int, ApplicationSpec]) -> bool:
    """Is what serves now worth keeping until the asked version is ready?"""
    serving = versions.get(memory.serving)
    return serving is not None and (memory.serving in memory.good or _ingress_ready(draft, serving))


def _ingress_ready(draft: Draft, spec: ApplicationSpec) -> bool:
    return any(m.ready and m.wanted for m in draft.census.members.get(DeploymentKey(spec.name, spec.ingress), ()))


def _target(draft: Draft, memory: ApplicationMemory, asked: ApplicationSpec) -> ApplicationSpec:
    if not memory.refused or memory.last_good is None:
        return asked
    return draft.cluster.versions.get(memory.app, {}).get(memory.last_good, asked)


def _bring_about(
    draft: Draft, target: ApplicationSpec, generation: int, returning: str
) -> list[DeploymentMemory] | None:
    """Plan each deployment; None when one of them could not be planned."""
    states: list[DeploymentMemory] | None = []
    for spec in sorted(target.deployments, key=lambda spec: spec.name):
        key, planned = DeploymentKey(target.name, spec.name), len(draft.actions)
        try:
            state = plan_deployment(draft, key, spec, generation, returning)
        except InvalidTransition as error:  # our bug: it must not stop the other deployments
            del draft.actions[planned:]
            draft.notes.append(f"{key} is left as it is: {error}")
            states = None
        else:
            states = [*states, state] if states is not None else None
    return states


def _keep(
    draft: Draft, key: DeploymentKey, serving: ApplicationSpec, generation: int, giving_up: int
) -> DeploymentMemory:
    """As it is, until the routes have moved: replicas lost are replaced, nothing else changes while there is room."""
    stored, spec, planned = draft.cluster.deployments.get(key), serving.deployment(key.deployment), len(draft.actions)
    assert spec is not None
    try:
        if stored is not None:
            return plan_deployment(draft, key, stored.target, stored.generation, giving_up=giving_up)
        return plan_deployment(draft, key, spec, generation)
    except InvalidTransition as error:  # our bug, as above
        del draft.actions[planned:]
        draft.notes.append(f"{key} is left as it is: {error}")
        return stored or first_memory(key, spec, generation, draft.now_wall)


# --- the verdict ----------------------------------------------------------------------------------------------------


def _judged(
    draft: Draft,
    memory: ApplicationMemory,
    target: ApplicationSpec,
    serving: ApplicationSpec,
    states: Iterable[DeploymentMemory],
) -> ApplicationMemory:
    if memory.refused:
        back = _ingress_ready(draft, target) or not _ingress_ready(draft, serving)
        return replace(memory, serving=memory.last_good or memory.serving) if back else memory
    states = list(states)
    bad = next((state for state in states if state.phase in _BAD), None)
    if bad is not None and memory.last_good not in (None, memory.asked):
        return _refused(memory, f"deployment {bad.deployment!r}: {bad.message}")
    configs = {spec.name: _config_standing(draft, target.name, spec) for spec in target.deployments}
    for name, config in configs.items():
        if config.refused is not None and memory.last_good not in (None, memory.asked):
            return _refused(
                memory, f"deployment {name!r}: its replicas go on with the former user_config: {config.refused}"
            )
    if all(state.phase not in _UNREACHED for state in states) and not any(c.behind for c in configs.values()):
        good = (memory.asked, *(n for n in memory.good if n != memory.asked))[:KEPT_APP_VERSIONS]
        return replace(memory, serving=memory.asked, good=good)
    if not _ingress_ready(draft, serving) and _ingress_ready(draft, target):
        return replace(memory, serving=memory.asked)  # nobody to wait for
    return memory


def _config_standing(draft: Draft, app: AppName, spec: DeploymentSpec) -> ConfigStanding:
    members = draft.census.members.get(DeploymentKey(app, spec.name), ())
    return config_standing(spec, ((m.assignment, m.observed) for m in members))


def _refused(memory: ApplicationMemory, why: str) -> ApplicationMemory:
    """Back to the last good version. Unless there was no room for both, it serves still."""
    why = f"version {memory.asked} of the application was rolled back to version {memory.last_good}: {why}"
    return replace(memory, refused=True, message=why, refusals={**memory.refusals, memory.asked: why})


def _save(draft: Draft, memory: ApplicationMemory, stored: ApplicationMemory | None) -> None:
    kept = memory.numbers()
    memory = replace(
        memory,
        good=tuple(n for n in memory.good if n in kept),
        refusals={n: why for n, why in memory.refusals.items() if n in kept},
    )
    if memory != stored:
        draft.actions.append(SaveApplication(memory))
    for number in sorted(draft.cluster.versions.get(memory.app, {}).keys() - kept):
        draft.actions.append(RemoveVersion(memory.app, number))


# --- what is left over ----------------------------------------------------------------------------------------------


def _take_down(draft: Draft, name: AppName, left: list[DeploymentKey]) -> None:
    """What no version needs any more goes, callers before those they call: a request in flight finds all it needs."""
    if not left:
        return
    may_go_at = draft.cluster.served_since.get(name, draft.now) + draft.settings.handover_linger_s
    answer = any(route.replicas for key in left if (route := draft.cluster.routes.get(key)) is not None)
    if answer and draft.now < may_go_at and not _deleted_before(draft, left):
        draft.wakes.append(may_go_at)
        return
    for wave in _waves(draft, name, left):
        if not _remove(draft, wave):
            return


def _waves(draft: Draft, name: AppName, left: list[DeploymentKey]) -> Iterable[list[DeploymentKey]]:
    """Those of a life that was deleted: all at once. Of the others one after another, and only when no replica that
    may still call them is leaving."""
    gone = [key for key in left if _deleted_before(draft, [key])]
    if gone:
        yield gone
    ordered = _callers_first(draft, name, [key for key in left if key not in gone])
    for key in ordered:
        others = (m for k, members in draft.census.members.items() if k.app == name and k not in left for m in members)
        is_ingress = any(spec.ingress == key.deployment for spec in draft.cluster.versions.get(name, {}).values())
        if not is_ingress and any(m.reachable and m.assignment is not None and not m.wanted for m in others):
            return
        yield [key]


def _deleted_before(draft: Draft, keys: Iterable[DeploymentKey]) -> bool:
    memories = [draft.cluster.deployments.get(key) for key in keys]
    return all(memory is not None and draft.cluster.is_reborn(memory.app, memory.generation) for memory in memories)


def _callers_first(draft: Draft, name: AppName, keys: Iterable[DeploymentKey]) -> list[DeploymentKey]:
    """In an application record those that are called stand before those that call them."""
    place: dict[str, tuple[int, int]] = {}
    for number, spec in sorted(draft.cluster.versions.get(name, {}).items()):
        place |= {deployment.name: (number, index) for index, deployment in enumerate(spec.deployments)}
    return sorted(keys, key=lambda key: place.get(key.deployment, (0, 0)), reverse=True)


def _delete(draft: Draft, app: Versioned[ApplicationSpec], keys: Iterable[DeploymentKey]) -> None:
    """The application's own record goes last, in the plan in which nothing else of it is left: a leader that dies in
    between leaves a record that says "deleting", and its successor goes on."""
    name = app.value.name
    for key in _callers_first(draft, name, keys):
        if not _remove(draft, [key]):
            return
    if name in draft.cluster.served or name in draft.cluster.versions:
        draft.actions.append(ForgetApplication(name))
    draft.actions.append(RemoveApp(name, app.mod_revision))


def _remove(draft: Draft, keys: Iterable[DeploymentKey]) -> bool:
    """True when nothing of them is left after this plan."""
    gone = True
    for key in keys:
        planned = len(draft.actions)
        try:
            gone &= remove_deployment(draft, key)
        except InvalidTransition as error:  # our bug, as above
            del draft.actions[planned:]
            draft.notes.append(f"{key} is left as it is: {error}")
            gone = False
    return gone
