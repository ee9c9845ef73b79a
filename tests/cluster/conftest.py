"""`cluster_of` makes clusters and ends them; a failed test shows their logs."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import LocalCluster
from tests.load.outcomes import Report

ClusterFactory = Callable[..., LocalCluster]
Show = Callable[[str, Report], None]
Reporting = Generator[None, pytest.TestReport, pytest.TestReport]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Reporting:
    report = yield
    if call.when == "call" and call.excinfo is not None:
        for cluster in getattr(item, "_clusters", []):
            report.sections.append((f"logs of {cluster.folder}", cluster.logs()))
    return report


@pytest.fixture
def cluster_of(request: pytest.FixtureRequest) -> Iterator[ClusterFactory]:
    """`cluster_of(nodes=2, external_etcd=True, disable="adopt")`: started, and ended with the test."""
    clusters: list[LocalCluster] = []
    request.node._clusters = clusters

    def make(
        nodes: int = 1, *options: str, external_etcd: bool = False, disable: str = "", **test_env: str
    ) -> LocalCluster:
        cluster = LocalCluster(external_etcd=external_etcd, disable=disable, test_env=test_env)
        clusters.append(cluster)
        for _ in range(nodes):
            cluster.start_node(*options)
        return cluster

    yield make
    problems = []
    for cluster in clusters:
        try:
            cluster.close()
        except AssertionError as error:
            problems.append(str(error))
    assert not problems, "\n".join(problems)


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Show:
    """Print the counts of a load (`pytest -s`), and append them to the file named by SERVE_TEST_REPORT."""

    def shown(title: str, report: Report) -> None:
        line = f"[{title}] {report.summary()}"
        print(line)
        if target := os.environ.get("SERVE_TEST_REPORT"):
            with Path(target).open("a") as file:
                file.write(line + "\n")

    return shown
