"""What a fork inherits: random state must not, imported libraries should."""

from __future__ import annotations

import time
from pathlib import Path

from tests.cluster.conftest import ClusterFactory
from tests.cluster.harness import LocalCluster
from tests.cluster.processes import eventually

SLOW_IMPORT_S = 1.5


def _first_randoms(cluster: LocalCluster) -> list[float]:
    """Of three replicas whose launcher has learned numpy, and with it the state of numpy's generator."""
    cluster.deploy("lazy", name="teacher", route="/teacher", num_replicas=1, arguments={"module": "numpy.random"})
    time.sleep(0.2)  # the launcher may be warm still, before it begins to learn
    eventually(lambda: _launcher(cluster) == "warm", 30, "the new launcher has learned")
    cluster.deploy("echo", num_replicas=3)
    cluster.await_replicas(3)
    seen: dict[int, float] = {}

    def all_seen() -> bool:
        answer = cluster.node.json("/random")
        seen[answer["pid"]] = answer["first"]
        return len(seen) == 3

    eventually(all_seen, 20, "an answer of each replica")
    return list(seen.values())


def test_replicas_draw_different_random_numbers(cluster_of: ClusterFactory) -> None:
    assert len(set(_first_randoms(cluster_of()))) == 3


def test_negative_control_without_reseeding_they_draw_the_same(cluster_of: ClusterFactory) -> None:
    assert len(set(_first_randoms(cluster_of(disable="reseed")))) == 1, "the test above cannot fail"


def _import_s_of_a_second_replica(cluster: LocalCluster) -> float:
    """A package made on the fly, imported lazily by a constructor, as transformers' models are."""
    package = cluster.site_packages / "srt_slow_library"
    package.mkdir()
    (package / "__init__.py").write_text(f"import time\ntime.sleep({SLOW_IMPORT_S})\n")
    arguments = {"module": "srt_slow_library"}
    cluster.deploy("lazy", num_replicas=1, arguments=arguments)
    first = cluster.node.json("/")
    assert first["import_s"] >= SLOW_IMPORT_S, "the first replica pays"

    time.sleep(0.2)  # the launcher may be warm still, before it begins to learn
    eventually(lambda: _launcher(cluster) == "warm", 30, "the new launcher has learned")
    cluster.deploy("lazy", name="second", route="/second", num_replicas=1, arguments=arguments)
    second = cluster.node.json("/second")
    assert second["pid"] != first["pid"]
    return float(second["import_s"])


def _launcher(cluster: LocalCluster) -> str:
    return cluster.node.nodes().nodes[0].launcher


def test_second_replica_does_not_pay_for_a_slow_lazy_import(cluster_of: ClusterFactory) -> None:
    assert _import_s_of_a_second_replica(cluster_of()) < 0.3


def test_negative_control_without_learning_it_pays(cluster_of: ClusterFactory) -> None:
    assert _import_s_of_a_second_replica(cluster_of(disable="learn")) >= SLOW_IMPORT_S


def test_idle_cluster_is_small(cluster_of: ClusterFactory) -> None:
    from tests.cluster.processes import processes_of, pss_bytes

    cluster = cluster_of()
    cluster.deploy("small", ray_actor_options={"num_cpus": 0.1})
    mib = pss_bytes([process for process, _ in processes_of(cluster.folder)]) / (1 << 20)
    print(f"idle: {mib:.0f} MiB PSS in {len(list(processes_of(cluster.folder)))} processes")
    assert 20 < mib <= 250
    assert Path("/proc/self/smaps_rollup").exists()
