"""The last minutes as points: numbered, bounded, with rates over a window."""

from __future__ import annotations

from serve_rt.dashboard.counted import Counted, Counter, Demand
from serve_rt.dashboard.history import KEPT, WINDOW_S, History
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName
from serve_rt.model.scaling import DeploymentScaling, ScalingOverview
from serve_rt.model.status import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    ServeStatus,
)


def status(**states: int) -> ServeStatus:
    deployment = DeploymentStatusOverview(DeploymentStatus.HEALTHY, replica_states=states)
    return ServeStatus(
        applications={"a": ApplicationStatusOverview(ApplicationStatus.RUNNING, deployments={"D": deployment})}
    )


def counted(total: float) -> Counted:
    return Counted(frozenset({"n"}), requests={("n", "w"): Counter("a", total)})


def test_rates_look_back_over_the_window() -> None:
    history, rates = History(), []
    for second in range(20):
        total = 10.0 * second if second < 10 else 90.0
        point = history.add(status(), ScalingOverview(), counted(total), now_s=float(second), wall_s=0.0)
        rates.append(point.applications["a"].requests_per_s if point.applications else None)
    assert rates[0] is None, "one reading is no rate"
    assert rates[9] == 10.0 and rates[19] == 0.0
    assert rates[12] == 10.0 * (9 - (12 - WINDOW_S)) / WINDOW_S, "part of the window was busy"


def test_a_page_asks_for_what_is_newer() -> None:
    history = History()
    for second in range(KEPT + 10):
        history.add(status(), ScalingOverview(), Counted(), now_s=float(second), wall_s=0.0)
    assert [point.number for point in history.after(KEPT + 8)] == [KEPT + 9, KEPT + 10]
    assert len(history.after(0)) == KEPT
    assert history.after(KEPT + 10) == []


def test_replicas_and_demand_of_a_fixed_and_of_an_autoscaled_deployment() -> None:
    asked = Counted(demand={DeploymentKey(AppName("a"), DeploymentName("D")): Demand(1.0, 2.0)})
    fixed = History().add(status(RUNNING=2, STARTING=1), ScalingOverview(), asked, now_s=0.0, wall_s=0.0)
    one = fixed.deployments["a#D"]
    assert (one.running, one.others, one.target, one.queued, one.ongoing) == (2, 1, None, 1.0, 2.0)
    scaling = DeploymentScaling("a", "D", 4, 5, None, 2, 1, 8, 7.0, 8.0, 15.0, 15.0, True, "because")
    scaled = History().add(status(RUNNING=2), ScalingOverview((scaling,)), asked, now_s=0.0, wall_s=0.0)
    one = scaled.deployments["a#D"]
    assert (one.running, one.target, one.queued, one.ongoing) == (2, 4, 7.0, 8.0), "the autoscaler's own numbers"
