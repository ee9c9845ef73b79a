"""What a user's class may have besides its methods, and when each of it is called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.exceptions import RayServeException
from tests.cluster.processes import eventually
from tests.conformance.apps_basic import Inner, Outer, function
from tests.conformance.apps_hooks import (
    BadMetadata,
    Bare,
    BornSick,
    Hooked,
    SyncHooked,
    Unconfigurable,
    Unlucky,
)
from tests.conformance.asking import ANSWER_S, Cluster, call
from tests.conformance.bullets import covers

STATS = {"request_routing_stats_period_s": 0.1}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module", autouse=True)
def apps(cluster: Cluster, notes: Path) -> Iterator[list[serve.RunTarget]]:
    hooked = Hooked.options(user_config={"n": 1}, request_router_config=STATS)
    sync = SyncHooked.options(user_config={"n": 1}, request_router_config=STATS, health_check_period_s=0.2)
    targets = [
        serve.RunTarget(hooked.bind(str(notes / "hooked")), "hooked", "/hooked"),
        serve.RunTarget(sync.bind(str(notes / "sync")), "sync", None),
        serve.RunTarget(Bare.bind(), "bare", None),
        serve.RunTarget(Outer.bind(Inner.bind(1), label="who"), "who", None),
        serve.RunTarget(function.bind(), "function", "/function"),
    ]
    serve.run_many(targets)
    yield targets
    for target in targets:
        serve.delete(target.name, _blocking=False)


@covers("1.10-01", "1.10-05")
def test_async_init_then_reconfigure_then_check_health() -> None:
    seen = call("hooked", "seen")
    assert seen["calls"][:3] == ["init", "reconfigure", "check_health"]
    assert seen["config"] == {"n": 1} and seen["on_the_loop"]


@covers("1.10-05", "1.9-41")
def test_a_changed_user_config_reaches_the_living_replica(notes: Path) -> None:
    before = call("hooked", "seen")
    changed = Hooked.options(
        user_config={"n": 2, "deep": {"a": [1]}}, max_ongoing_requests=17, request_router_config=STATS
    )
    serve.run(changed.bind(str(notes / "hooked")), name="hooked", route_prefix="/hooked")
    seen = eventually(
        lambda: (now := call("hooked", "seen"))["config"] == {"n": 2, "deep": {"a": [1]}} and now, 10, "it came"
    )
    assert seen["pid"] == before["pid"] and seen["max_ongoing"] == 17


@covers("1.10-05")
def test_a_user_config_that_reconfigure_refuses_is_told(notes: Path) -> None:
    wrong = Hooked.options(user_config={"wrong": True}, name="Wrong", max_constructor_retry_count=1)
    with pytest.raises(RuntimeError, match="cannot work with"):
        serve.run(wrong.bind(str(notes / "wrong")), name="wrong", route_prefix=None)
    serve.delete("wrong", _blocking=False)


@covers("1.10-06", "1.8-03")
def test_reconfigure_with_rank() -> None:
    seen = call("sync", "seen")
    assert (seen["config"], seen["rank"]) == ({"n": 1}, 0)


@covers("1.10-08")
def test_user_config_without_reconfigure() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Unconfigurable.*reconfigure"):
        serve.run(Unconfigurable.bind(), name="unconfigurable", route_prefix=None)
    serve.delete("unconfigurable", _blocking=False)


@covers("1.10-09")
def test_a_replica_that_is_ill_is_replaced() -> None:
    before = call("sync", "seen")["pid"]
    call("sync", "fall_ill")

    def replaced() -> bool:
        try:
            return bool(call("sync", "seen")["pid"] != before)
        except RayServeException:  # it was killed under this very call, which is not retry-safe
            return False

    eventually(replaced, 20, "another replica answers")


@covers("1.10-10")
def test_a_replica_that_is_ill_from_birth() -> None:
    with pytest.raises(RuntimeError, match="ill from birth"):
        serve.run(BornSick.bind(), name="sick", route_prefix=None)
    serve.delete("sick", _blocking=False)


@covers("1.10-02", "1.9-27")
def test_a_constructor_that_fails_is_tried_again(notes: Path) -> None:
    handle = serve.run(Unlucky.bind(str(notes / "unlucky")), name="unlucky", route_prefix=None)
    assert handle.how_many.remote().result(timeout_s=ANSWER_S) == 3
    serve.delete("unlucky", _blocking=False)


@covers("1.10-02", "1.9-27")
def test_not_more_often_than_it_may(notes: Path) -> None:
    never = Unlucky.options(max_constructor_retry_count=2)
    with pytest.raises(RuntimeError, match="no luck the 2. time"):
        serve.run(never.bind(str(notes / "never")), name="never", route_prefix=None)
    assert (notes / "never").read_text().count("try") == 2
    serve.delete("never", _blocking=False)


@covers("1.10-11")
def test_routing_stats_are_asked_for() -> None:
    eventually(lambda: call("hooked", "seen")["stats_asked"] > 2, 10, "the async one was asked")
    eventually(lambda: call("sync", "seen")["stats_asked"] > 2, 10, "the sync one, which raises, was asked again")


@covers("1.10-12")
def test_replica_metadata() -> None:
    with pytest.raises(RuntimeError, match=r"record_replica_metadata.*dict.*list"):
        serve.run(BadMetadata.bind(), name="metadata", route_prefix=None)
    serve.delete("metadata", _blocking=False)


@covers("1.10-13")
@pytest.mark.parametrize("kind", [Hooked, SyncHooked])
def test_the_destructor_runs_once(kind: Any, notes: Path) -> None:
    file = notes / f"ended-{kind.name}"
    handle = serve.run(kind.bind(str(file)), name="ending", route_prefix=None)
    pid = handle.seen.remote().result(timeout_s=ANSWER_S)["pid"]
    serve.delete("ending")
    assert file.read_text() == f"deleted {pid}\n"


@covers("1.10-14")
def test_a_method_that_is_not_there() -> None:
    with pytest.raises(RayServeException, match=r"(?s)method 'fly' that does not exist.*'count'.*'meet'"):
        call("bare", "fly")
    with pytest.raises(RayServeException, match=r"(?s)method '__call__' that does not exist"):
        call("bare")
    with pytest.raises(RayServeException, match=r"(?s)method 'predict' that does not exist.*__call__"):
        call("function", "predict")


@covers("1.10-03")
def test_sync_methods_run_side_by_side() -> None:
    handle = serve.get_app_handle("bare")
    answers = [handle.meet.remote() for _ in range(3)]
    assert sorted(answer.result(timeout_s=ANSWER_S) for answer in answers) == [0, 1, 2]


@covers("1.10-04")
def test_async_methods_share_a_loop() -> None:
    handle = serve.get_app_handle("bare")
    answers = [handle.overlap.remote() for _ in range(3)]
    assert len({answer.result(timeout_s=ANSWER_S) for answer in answers}) == 1


@covers("1.10-03")
def test_arguments_of_every_kind() -> None:
    assert call("bare", "positional_and_named", 1, 2, 5, 6, three=4, four=7) == [1, 2, (5, 6), 4, {"four": 7}]
    with pytest.raises(TypeError, match="positional_and_named"):
        call("bare", "positional_and_named")
    assert call("bare", "static", 1) == 2
    assert call("bare", "of_class") == "Bare"


@covers("1.10-15")
def test_call_without_parameters(cluster: Cluster) -> None:
    assert cluster.get("/hooked").text == "called with nothing"
    assert call("hooked") == "called with nothing"


@covers("1.10-21")
def test_functions(cluster: Cluster) -> None:
    assert cluster.get("/function").text == "function GET"
    assert call("function") == "function"


@covers("1.8-01", "1.8-03", "1.8-04", "1.8-06")
def test_who_am_i() -> None:
    who = call("who", "who")
    assert (who["app"], who["deployment"], who["born_as"], who["is_me"]) == ("who", "Outer", "Outer", True)
    assert who["id"].endswith(who["tag"]) and who["tag"]
    assert who["version"] and who["model"] == "" and who["trace"] is None
    assert (who["rank"], who["world_size"]) == (0, 1)
    inner = call("who", "inner_who")
    assert (inner["app"], inner["deployment"]) == ("who", "Inner")
    assert inner["pid"] != who["pid"] and inner["id"] != who["id"]


@covers("1.8-07")
def test_the_context_of_a_request() -> None:
    for method in ("request_context", "request_context_in_a_thread"):
        context = call("who", method)
        assert context["id"] and context["app"] == "who"
    first, second = call("who", "request_context"), call("who", "request_context")
    assert first["id"] != second["id"]
