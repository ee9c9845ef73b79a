"""Where replicas go: GPU memory, custom resources, selectors, failure domains, and two that race for one slot."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from serve_rt.api.options import clean, resolve
from serve_rt.controller.node_labels import fits
from serve_rt.controller.placement import MOST_SHARED_CPU, Misfit, Placing
from serve_rt.controller.room import NodeRoom
from serve_rt.controller.status import build_status
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName, NodeId
from serve_rt.model.node import NodeRecord
from serve_rt.model.resources import Resources
from serve_rt.model.spec import AutoscalingOptions, DeploymentSpec, Placement
from tests.controller.world import World, application, deployment_spec, node_record

KEY = DeploymentKey(AppName("x"), DeploymentName("d"))
MIB = 1 << 20


def gpu_spec(gpu: float = 0.0, memory_mib: int = 0) -> DeploymentSpec:
    asked = Resources(milli_cpu=0, milli_gpu=round(gpu * 1000), gpu_memory_bytes=memory_mib * MIB)
    return deployment_spec(resources=asked)


def placed(record: NodeRecord, *specs: DeploymentSpec) -> list[str]:
    """The device of each, "-" where none fits; the fake ones have 16 GiB."""
    room = {record.node_id: NodeRoom.empty(record, takes=True)}
    found = []
    for spec in specs:
        place = Placing(room, KEY, spec).next()
        found.append("-" if isinstance(place, Misfit) else "+".join(share.uuid[-1] for share in place.devices))
    return found


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([(0, 10_000), (0, 10_000), (0, 10_000)], ["0", "1", "-"]),
        ([(0, 6_000), (0, 6_000), (0, 6_000)], ["0", "0", "1"]),
        ([(0.5, 10_000), (0.5, 10_000), (0.5, 1_000)], ["0", "1", "0"]),
        ([(0, 1_000), (1, 0), (1, 0)], ["0", "1", "-"]),  # a whole device is one that nobody uses
        ([(1, 0), (0, 1_000), (1, 0)], ["0", "1", "-"]),  # and stays so
        ([(1, 17_000)], ["-"]),
        ([(2, 16_000)], ["0+1"]),
    ],
)
def test_gpu_memory_admits_by_mib(asked: list[tuple[float, int]], expected: list[str]) -> None:
    assert placed(node_record("a", gpus=2), *(gpu_spec(*one) for one in asked)) == expected


def test_the_reason_says_how_much_memory_is_free_and_what_would_help() -> None:
    record = node_record("a", gpus=1)
    room = {record.node_id: NodeRoom.empty(record, takes=True)}
    Placing(room, KEY, gpu_spec(0, 10_000)).next()
    misfit = Placing(room, KEY, gpu_spec(0.5, 10_000)).next()
    assert isinstance(misfit, Misfit)
    assert "10000 MiB GPU memory" in misfit.reason and "6384 MiB of GPU memory free" in misfit.reason
    assert "when other replicas end" in misfit.reason


def test_gpu_memory_is_held_until_the_process_is_gone() -> None:
    world = World()
    world.add_node(node_record("a", gpus=1))
    world.deploy(application("x", gpu_spec(0, 10_000)))
    world.settle()
    world.deploy(application("y", gpu_spec(0, 10_000)))
    world.settle()
    assert "6384 MiB" in world.cluster.deployments[DeploymentKey(AppName("y"), DeploymentName("d"))].pending
    world.delete_app("x")
    world.settle()
    assert world.ready("y") == 1


def test_custom_resources_are_counted() -> None:
    record = node_record("a")
    record = replace(record, resources=replace(record.resources, custom={"disk": 2000}))
    spec = deployment_spec(resources=Resources(milli_cpu=0, custom={"disk": 800}))
    assert placed(record, spec, spec, spec) == ["", "", "-"]


@pytest.mark.parametrize(
    ("selector", "value", "fitting"),
    [
        ("a", "a", True), ("a", "b", False), ("a", None, False), ("!a", "b", True), ("!a", "a", False),
        ("!a", None, True), ("in(a, b)", "b", True), ("in(a,b)", "c", False), ("in(a,b)", None, False),
        ("!in(a,b)", "c", True), ("!in(a,b)", "a", False), ("!in(a,b)", None, True),
    ],
)  # fmt: skip
def test_selectors(selector: str, value: str | None, fitting: bool) -> None:
    assert fits(selector, value) is fitting


# --- the default share of CPU -------------------------------------------------------------------------------------

IMPLIED = Resources(milli_cpu=1000, cpu_implied=True)


def parts(*names: str, version: str = "v1", **options: object) -> list[DeploymentSpec]:
    return [deployment_spec(name, version, **options) for name in names]


def small_node(cpu: int = 2000) -> World:
    world = World()
    world.add_node(node_record("a", cpu=cpu))
    return world


def running(world: World, app: str, names: str) -> list[int]:
    return [world.ready(app, name) for name in names]


def test_an_application_of_many_deployments_starts_on_few_cpus_and_is_updated_there() -> None:
    world = small_node()
    for version in ("v1", "v2"):
        specs = parts(*"abcde", version=version, resources=IMPLIED)
        world.deploy(application("x", *specs, deploy_id=version))
        world.settle()
        assert running(world, "x", "abcde") == [1] * 5
        assert {member.spec.version for member in world.members("x")} == {version}


def test_what_was_asked_for_is_kept_apart() -> None:
    """Negative control: the same share, asked for."""
    world = small_node()
    world.deploy(application("x", *parts(*"abc", resources=Resources(milli_cpu=1000))))
    world.settle()
    assert running(world, "x", "abc") == [1, 1, 0]
    assert "has 0 CPU free" in world.cluster.deployments[DeploymentKey(AppName("x"), DeploymentName("c"))].pending


def test_who_asks_for_cpu_gets_what_nobody_asked_for_and_no_more() -> None:
    world = small_node()
    world.deploy(application("x", *parts(*"ab", resources=IMPLIED)))
    world.settle()
    world.deploy(application("y", *parts(*"cd", resources=Resources(milli_cpu=1500))))
    world.settle()
    assert running(world, "y", "cd") == [1, 0] and running(world, "x", "ab") == [1, 1]


def test_the_autoscaler_adds_only_where_cpu_is_free() -> None:
    world = small_node()
    scaling = AutoscalingOptions(min_replicas=1, max_replicas=9, upscale_delay_s=0)
    world.deploy(application("x", *parts("d", resources=IMPLIED, autoscaling=scaling)))
    world.settle()
    world.demand[KEY] = 50
    world.settle()
    assert world.ready("x") == 2
    pending = world.cluster.deployments[KEY].pending
    assert "1 CPU (the default; ray_actor_options={'num_cpus': ...}" in pending


def test_sharing_has_an_end_and_none_where_no_cpu_is_offered() -> None:
    world = small_node()
    world.deploy(application("x", *parts("d", resources=IMPLIED, num_replicas=20)))
    world.settle()
    assert world.ready("x") == 16 == MOST_SHARED_CPU // 1000
    closed = small_node(cpu=0)
    closed.deploy(application("x", *parts("d", resources=IMPLIED)))
    closed.settle()
    assert closed.ready("x") == 0


# --- spread, pack, failure domains --------------------------------------------------------------------------------


def zoned(*zones: str, cpu: int = 64000) -> World:
    world = World()
    for index, zone in enumerate(zones):
        world.add_node(node_record(f"n{index}", cpu=cpu, zone=zone))
    return world


FLOOR: dict[str, object] = {"spread_label": "zone", "spread_min_domains": 2}


def by_zone(world: World, app: str = "x") -> Counter[str]:
    return Counter(world.records[a.node_id].labels["zone"] for a in world.members(app))


def test_replicas_are_spread_over_domains_first_and_nodes_second() -> None:
    world = zoned("a", "a", "a", "b")
    world.deploy(application("x", deployment_spec(num_replicas=6, spread_label="zone")))
    world.settle()
    assert by_zone(world) == {"a": 3, "b": 3}
    assert len({a.node_id for a in world.members("x")}) == 4


def test_the_floor_holds_and_says_what_is_missing() -> None:
    world = zoned("a", "a")
    world.deploy(application("x", deployment_spec("d", "v1", num_replicas=4, **FLOOR, spread_hard=True)))
    world.settle()
    pending = world.cluster.deployments[KEY].pending
    assert by_zone(world) == {"a": 2} and "zone=a" in pending and "another zone" in pending
    world.add_node(node_record("n9", cpu=64000, zone="b"))
    world.settle()
    assert by_zone(world) == {"a": 2, "b": 2} and not world.cluster.deployments[KEY].pending


def test_a_floor_that_cannot_be_kept_crowds_and_says_so_until_it_can() -> None:
    world = zoned("a", "a", "b")
    world.deploy(application("x", deployment_spec("d", "v1", num_replicas=4, **FLOOR)))
    world.settle()
    assert by_zone(world) == {"a": 2, "b": 2} and not _told(world)
    world.lose("n2")
    world.now += 11.0
    world.settle()
    assert world.ready("x") >= 4 and not world.cluster.deployments[KEY].pending
    assert "zone=a has 4 of 4 replicas" in _told(world) and "min_domains=2" in _told(world)
    world.back("n2")
    world.settle()
    assert by_zone(world) == {"a": 2, "b": 2} and not _told(world)


def test_a_smaller_deployment_leaves_the_crowded_domain() -> None:
    world = zoned("a", "a")
    world.deploy(application("x", deployment_spec("d", "v1", num_replicas=6, **FLOOR)))
    world.settle()
    world.add_node(node_record("n9", cpu=64000, zone="b"))
    world.deploy(application("x", deployment_spec("d", "v1", num_replicas=8, **FLOOR), deploy_id="d2"))
    world.settle()
    assert by_zone(world) == {"a": 6, "b": 2}, "what runs is not moved for it"
    world.deploy(application("x", deployment_spec("d", "v1", num_replicas=4, **FLOOR), deploy_id="d3"))
    world.settle()
    assert by_zone(world) == {"a": 2, "b": 2}


def _told(world: World) -> str:
    return build_status(world.cluster, 0.0, 0.0).applications["x"].deployments["d"].message


def test_an_update_keeps_the_floor() -> None:
    world = zoned("a", "b", "b")
    spec = deployment_spec("d", "v1", num_replicas=5, **FLOOR)
    world.deploy(application("x", spec))
    world.settle()
    world.deploy(application("x", replace(spec, version="v2"), deploy_id="d2"))  # type: ignore[arg-type]  # a VersionId
    world.settle()
    assert sorted(by_zone(world).values()) == [2, 3] and world.ready("x") == 5


def test_pack_fills_one_node_first() -> None:
    world = zoned("a", "b", cpu=4000)
    world.deploy(application("x", deployment_spec(num_replicas=4, placement=Placement.PACK)))
    world.settle()
    assert len({a.node_id for a in world.members("x")}) == 1


def test_the_api_takes_the_options() -> None:
    given = {
        "ray_actor_options": {"gpu_memory": 500, "num_gpus": 0.25, "label_selector": {"zone": "in(a,b)"}},
        "placement": "PACK",
        "spread_over": {"label": "zone", "min_domains": 3, "when_unsatisfiable": "DoNotSchedule"},
    }
    options = resolve(clean("@serve.deployment", given))
    assert options.resources.gpu_memory_bytes == 500 * MIB and options.placement is Placement.PACK
    assert (options.spread_label, options.spread_min_domains, options.spread_hard) == ("zone", 3, True)
    plain = resolve(clean("@serve.deployment", {"spread_over": "rack"}))
    assert plain.spread_label == "rack" and not plain.spread_hard
    for wrong in (
        {"placement": "ANY"},
        {"spread_over": {"min_domains": 2}},
        {"spread_over": {"label": "a", "x": 1}},
        {"spread_over": {"label": "a", "whenUnsatisfiable": "never"}},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            clean("@serve.deployment", wrong)


# --- races --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(200))
def test_of_two_that_race_for_the_last_gpu_exactly_one_gets_it(seed: int) -> None:
    """T40: at one instant, by steps of leader and agents in any order, over changes of leader."""
    dice = random.Random(seed)
    world = World()
    for name in ("a", "b")[: dice.choice((1, 2))]:
        world.add_node(node_record(name, gpus=1))
    taken = len(world.records) - 1
    asked = deployment_spec(resources=Resources(milli_cpu=100, milli_gpu=1000))
    if taken:
        world.deploy(application("first", asked))
        world.settle()
    rivals = ["x", "y"]
    dice.shuffle(rivals)
    for rival in rivals:
        world.deploy(application(rival, asked))
        for _ in range(dice.choice((0, 0, 1, 2))):
            dice.choice((world.step, world.agents, world.new_leader))()
            world.check_safety()
    world.settle()
    ready = [rival for rival in rivals if world.ready(rival)]
    (waiting,) = set(rivals) - set(ready)
    memory = world.cluster.deployments[DeploymentKey(AppName(waiting), DeploymentName("d"))]
    assert len(ready) == 1 and "0 of 1 GPUs unused" in memory.pending and "one more such node" in memory.pending
    world.delete_app(ready[0])
    world.settle()
    assert world.ready(waiting) == 1, "it gets the slot when the process is gone"
    assert len(world.cluster.assignments_of(NodeId("a"))) == 1
