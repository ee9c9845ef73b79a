"""etcd is away: requests go on, crashed replicas come back on their port, and all converges after its return.

In CI it is away for 4 s; `SERVE_TEST_ETCD_AWAY_S=30` is the promise's own figure.
"""

from __future__ import annotations

import os
import time

from tests.cluster.conftest import ClusterFactory, Show
from tests.cluster.faults import EtcdAway, Kill, applied, inject
from tests.cluster.processes import eventually
from tests.load.process import LoadProcess

AWAY_S = float(os.environ.get("SERVE_TEST_ETCD_AWAY_S", "4"))
RATE = 50.0


def test_etcd_stopped_and_started_again(cluster_of: ClusterFactory, show: Show) -> None:
    cluster = cluster_of(2, external_etcd=True)
    assert cluster.etcd is not None
    cluster.deploy("echo", num_replicas=2)
    before = cluster.await_replicas(2)
    victim, survivor = before

    with LoadProcess(cluster.node.http_port, rate_per_s=RATE) as load:
        time.sleep(0.5)
        with applied(EtcdAway(cluster.etcd)):
            gone_at = time.monotonic()
            inject(Kill(victim.process))
            [again] = eventually(
                lambda: [h for n in cluster.nodes for h in n.replicas() if h.name == victim.name],
                6, "the crashed replica runs again without etcd",
            )  # fmt: skip
            assert not cluster.etcd.answers()
            [proxy] = cluster.node.handles("proxy")
            while time.monotonic() - gone_at < AWAY_S:
                time.sleep(0.2)
        back_at = time.monotonic()
        cluster.deploy("echo", name="after", route="/after", timeout_s=60)
        converged_s = time.monotonic() - back_at
        after = cluster.await_replicas(2)
    show(f"etcd away {AWAY_S:g} s", load.report)
    print(f"a deploy went through {converged_s:.1f} s after etcd's return")

    assert survivor.key in {handle.key for handle in after}, "lease lost means registration lost, nothing else"
    assert again.key in {handle.key for handle in after}
    assert proxy.process.alive()
    assert load.report.lost == 0 and load.report.refused == 0, load.report.summary()
    assert converged_s < 8, "nobody waits for a lease of 10 s that a restarted etcd counts from the start again"


def test_a_new_proxy_serves_from_its_snapshot(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(1, external_etcd=True)
    assert cluster.etcd is not None
    cluster.deploy("echo", num_replicas=2)
    cluster.await_replicas(2)
    with applied(EtcdAway(cluster.etcd)):
        [proxy] = cluster.node.handles("proxy")
        inject(Kill(proxy.process))
        eventually(lambda: _answers(cluster.node.http), 10, "the new proxy routes without etcd")


def _answers(http: object) -> bool:
    assert callable(http)
    try:
        return bool(http("/?nonce=x")[0] == 200)
    except OSError:
        return False


def test_negative_control_without_local_restart(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(1, external_etcd=True, disable="local-restart")
    assert cluster.etcd is not None
    cluster.deploy("echo", num_replicas=2)
    victim = cluster.await_replicas(2)[0]
    with applied(EtcdAway(cluster.etcd)):
        inject(Kill(victim.process))
        time.sleep(3.0)  # the time in which the test above has seen it again
        running = [handle.name for handle in cluster.node.replicas()]
        assert victim.name not in running, "the protection makes no difference: the test above cannot fail"


def test_an_agent_that_never_ran_says_that_etcd_is_away(cluster_of: ClusterFactory) -> None:
    cluster = cluster_of(0, external_etcd=True, WAITS="first_contact_s=2")
    assert cluster.etcd is not None
    with applied(EtcdAway(cluster.etcd)):
        node = cluster.new_node()
        started = time.monotonic()
        node.launch()
        returncode = node.wait_agent(25)
        log = (node.state.path / "agent.log").read_text()
    assert returncode != 0 and 2 < time.monotonic() - started < 15
    assert cluster.etcd.endpoint in log, "names the endpoints"
    assert "Traceback" not in log
