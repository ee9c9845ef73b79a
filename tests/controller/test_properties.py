"""Whatever happens in whatever order: nothing is promised twice, our own acts keep the floor, and all ends well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_rt.controller.plan import DrainAssignment, PublishRoute, SaveApplication, SaveDeployment
from serve_rt.controller.settings import ControlSettings
from serve_rt.model.cluster import RolloutPhase
from serve_rt.model.ids import DeploymentKey, NodeId, deployment_of
from serve_rt.model.node import NodeMark
from serve_rt.model.replica import ReplicaState
from serve_rt.model.resources import Resources
from serve_rt.model.spec import ApplicationSpec, Placement
from tests.controller.world import World, application, deployment_spec, node_record

NODES = ("a", "b", "c", "d")
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def resources(draw: st.DrawFn) -> Resources:
    return Resources(
        milli_cpu=draw(st.sampled_from([0, 100, 1000, 2000])),
        memory_bytes=draw(st.sampled_from([0, 1 << 30, 3 << 30])),
        milli_gpu=draw(st.sampled_from([0, 0, 300, 500, 800, 1000, 2000])),
    )


@st.composite
def events(draw: st.DrawFn) -> list[tuple[str, tuple[Any, ...]]]:
    """What people, machines and user code do, between the leader's and the agents' steps."""
    app = st.sampled_from(["x", "y"])
    node = st.sampled_from(NODES)
    version = st.sampled_from(["v1", "v2", "v3", "bad"])
    one = st.one_of(
        st.tuples(
            st.just("deploy"),
            st.tuples(
                app,
                version,
                st.integers(0, 4),
                resources(),
                st.sampled_from(list(Placement)),
                st.sampled_from(["d", "d", "other"]),
                st.sampled_from([(), (), ("called",)]),
            ),
        ),
        st.tuples(st.just("delete"), st.tuples(app)),
        st.tuples(st.just("lose"), st.tuples(node)),
        st.tuples(st.just("back"), st.tuples(node, st.booleans())),
        st.tuples(st.just("crash"), st.tuples(st.integers(0, 9))),
        st.tuples(st.just("mark"), st.tuples(node, st.sampled_from(list(NodeMark)))),
        st.tuples(st.just("advance"), st.tuples(st.sampled_from([1.0, 11.0, 200.0, 601.0]))),
        st.tuples(st.just("leader"), st.just(())),
        st.tuples(st.just("leader dies in a plan"), st.tuples(st.integers(0, 3))),
        st.tuples(st.just("agent"), st.tuples(node)),
        st.tuples(st.just("agents"), st.just(())),
    )
    return draw(st.lists(one, min_size=5, max_size=40))


def a_world() -> World:
    world = World(failing={"bad"})
    for name, gpus in zip(NODES, (2, 1, 0, 0), strict=True):
        world.add_node(node_record(name, gpus=gpus))
    return world


def happen(world: World, event: str, arguments: tuple[Any, ...]) -> None:
    match event:
        case "deploy":
            app, version, n, asked, placement, ingress, inner = arguments
            spec = deployment_spec(ingress, version, num_replicas=n, resources=asked, placement=placement)
            world.deploy(application(app, spec, *(deployment_spec(name, version, num_replicas=n) for name in inner)))
        case "delete":
            world.delete_app(*arguments)
        case "lose" if arguments[0] in world.cluster.nodes:
            world.lose(*arguments)
        case "back" if arguments[0] not in world.cluster.nodes:
            world.back(arguments[0], rebooted=arguments[1])
        case "crash":
            for replica in sorted(world.cluster.assignments)[arguments[0] : arguments[0] + 1]:
                world.crash(replica)
        case "mark":
            world.mark(*arguments)
        case "advance":
            world.now += arguments[0]
        case "leader":
            world.step()
        case "leader dies in a plan":
            for action in world.plan().actions[: arguments[0]]:
                world.carry_out(action)
        case "agent" if arguments[0] in world.cluster.nodes:
            world.agent(NodeId(arguments[0]))
        case "agents":
            world.agents()


@QUICK
@given(events())
def test_nothing_is_promised_twice_and_all_ends_well(history: list[tuple[str, tuple[Any, ...]]]) -> None:
    world = a_world()
    for event, arguments in history:
        happen(world, event, arguments)
        world.check_safety()
        check_floor(world)
        check_handover(world)

    heal(world)
    world.settle()
    world.now += world.settings.handover_linger_s
    world.settle()

    assert not world.plan(), "settled means an empty plan"
    check_desired(world)


def check_floor(world: World) -> None:
    """The plan, carried out now, takes away no serving replica that the target still needs."""
    plan = world.plan()
    drained = {a.assignment.replica_id for a in plan.actions if isinstance(a, DrainAssignment)}
    routes = {a.route.key: a.route for a in plan.actions if isinstance(a, PublishRoute)}
    for key, memory in world.cluster.deployments.items():
        app, served = world.cluster.apps.get(key.app), world.cluster.serving(key.app)
        if app is None or served is None or app.value.deleting or memory.generation < app.value.reborn_at:
            continue
        needed = [spec for version in (app.value, served) if (spec := version.deployment(key.deployment)) is not None]
        if not needed:
            continue
        serving = {
            r.replica_id
            for r in getattr(world.cluster.routes.get(key), "replicas", ())
            if confirmed_ready(world, r.replica_id)
        }
        taken = serving & drained
        if any(isinstance(a, SaveDeployment) and a.memory.key == key and a.memory.yielded for a in plan.actions):
            # It gives way to an ingress of another name, for want of room: both together keep the floor.
            both = {r for r in world.cluster.observed if deployment_of(r) == DeploymentKey(key.app, app.value.ingress)}
            serving |= {r for r in both if confirmed_ready(world, r)}
        wanted = min(memory.target.options.num_replicas, *(spec.options.num_replicas for spec in needed))
        floor = max(0, wanted - memory.target.options.max_unavailable)
        assert not taken or len(serving - drained) >= floor, (serving, drained)
        after = routes.get(key)
        if after is not None:
            assert {r.replica_id for r in after.replicas} >= serving - drained


def check_handover(world: World) -> None:
    """Routes that lead to somebody are not moved to nobody."""
    for action in world.plan().actions:
        if not isinstance(action, SaveApplication) or (app := world.cluster.apps[action.memory.app].value).reborn_at:
            continue
        before = world.cluster.serving(app.name)
        after = world.cluster.versions.get(app.name, {}).get(action.memory.serving, app)
        if before is not None and before.ingress != after.ingress and serve(world, before):
            asked_none = after.deployment(after.ingress).options.num_replicas == 0  # type: ignore[union-attr]  # it has one
            assert serve(world, after) or asked_none


def serve(world: World, app: ApplicationSpec) -> bool:
    members = (o.replica_id for o in world.cluster.observed.values() if deployment_of(o.replica_id).app == app.name)
    return any(confirmed_ready(world, r) for r in members if deployment_of(r).deployment == app.ingress)


def confirmed_ready(world: World, replica: object) -> bool:
    observed = world.cluster.observed.get(replica)  # type: ignore[call-overload]  # a ReplicaId
    record = world.cluster.nodes.get(observed.node_id) if observed is not None else None
    return record is not None and observed.state is ReplicaState.READY and observed.session == record.session


def heal(world: World) -> None:
    world.failing.clear()
    for name in NODES:
        if name not in world.cluster.nodes:
            world.back(name)
        world.mark(name, NodeMark.SCHEDULABLE)
    world.agents()


def check_desired(world: World) -> None:
    cluster = world.cluster
    for name, app in cluster.apps.items():
        assert not app.value.deleting, f"{name} is deleted and still there"
        for spec in app.value.deployments:
            served = cluster.served[name]
            if served.refused and cluster.versions[name][served.serving].deployment(spec.name) is None:
                continue  # only the refused version has it
            memory = next(m for m in cluster.deployments.values() if (m.app, m.deployment) == (name, spec.name))
            mine = [a for a in world.members(name) if a.key.deployment == spec.name]
            if memory.pending:
                continue  # more was asked for than there is
            assert len(mine) == memory.target.options.num_replicas
            assert world.ready(name, spec.name) == len(mine)
            rolled = memory.phase is RolloutPhase.ROLLED_BACK
            assert memory.phase is RolloutPhase.STEADY or rolled, memory.phase
            assert {a.spec.version for a in mine} <= {memory.target.version}
            assert rolled or memory.target.version == spec.version
    assert {a.app for a in cluster.assignments.values()} <= set(cluster.apps)
    assert {k.app for k in cluster.routes} | {k.app for k in cluster.deployments} <= set(cluster.apps)


@QUICK
@given(st.integers(1, 6), st.integers(0, 100), st.integers(1, 3))
def test_an_update_never_has_fewer_ready_than_asked(replicas: int, surge: int, nodes: int) -> None:
    assert fewest_ready(replicas, surge, nodes, ControlSettings()) >= replicas


def test_without_the_surge_the_floor_breaks() -> None:
    """Negative control of the property above."""
    assert fewest_ready(2, 25, 1, ControlSettings(surge=False)) < 2


def fewest_ready(replicas: int, surge: int, nodes: int, settings: ControlSettings) -> int:
    """Ready and routed replicas at the worst moment of an update, all nodes full of the old version."""
    world = World(settings=settings)
    for name in NODES[:nodes]:
        world.add_node(node_record(name, cpu=1000 * -(-replicas // nodes)))
    spec = deployment_spec("d", "v1", num_replicas=replicas, max_surge_percent=surge)
    world.deploy(application("x", spec))
    world.settle()
    world.deploy(application("x", replace(spec, version="v2")))  # type: ignore[arg-type]  # a VersionId
    fewest = replicas
    for _ in range(200):
        plan = world.step()
        fewest = min(fewest, world.ready("x"))
        if not world.agents() and not plan:
            break
        fewest = min(fewest, world.ready("x"))
    assert {a.spec.version for a in world.members("x")} == {"v2"}
    return fewest


def test_the_same_cluster_gives_the_same_plan() -> None:
    world = a_world()
    world.deploy(application("x", deployment_spec(num_replicas=3)))
    assert world.plan() == world.plan()


def test_a_plan_cut_anywhere_is_gone_on_from() -> None:
    """A leader may die after any write: what is there is a state the next one finishes from."""
    for cut in range(12):
        world = a_world()
        world.deploy(application("x", deployment_spec(num_replicas=3)))
        world.settle()
        world.deploy(application("x", deployment_spec(version="v2", num_replicas=3)))
        for action in world.plan().actions[:cut]:
            world.carry_out(action)
        world.settle()
        check_desired(world)
