"""How long a start takes and what an idle cluster weighs; how fast a second replica of a real model is there."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.contenders import ROOT
from tests.cluster.etcd_server import EtcdServer, binary
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import eventually, processes_of, pss_bytes
from tests.examples.served import serve_run


@dataclass(frozen=True, slots=True)
class Started:
    first_answer_s: float
    pss_mib: float
    processes: int


def hello() -> Started:
    """From the command to the first answer; then the memory of all its processes."""
    started = time.monotonic()
    with serve_run("serve_rt.examples.hello:app") as served:
        eventually(lambda: _hello(served.port), 20, "hello answers")
        first_answer_s = time.monotonic() - started
        time.sleep(2.0)  # let start-up garbage settle: idle is what is weighed
        all_of_it = [process for process, _ in processes_of(served.folder)]
        return Started(first_answer_s, pss_bytes(all_of_it) / (1 << 20), len(all_of_it))


def _hello(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/?name=bench")
        return connection.getresponse().read() == b"Hello, bench!"
    except OSError:
        return False
    finally:
        connection.close()


class AssignmentWatch:
    """Notes when assignments are written, by etcdctl's own watch. *Resources*: call `close()`."""

    def __init__(self, etcd: EtcdServer) -> None:
        command = [binary("etcdctl"), "--endpoints", etcd.endpoint, "watch", "--prefix", "/serve-rt/default/assign/"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"ETCDCTL_API": "3"})
        self.written: dict[str, float] = {}
        self._thread = threading.Thread(target=self._read, name="assignment watch", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("/serve-rt/"):
                self.written.setdefault(line.strip().rpartition("/")[2], time.monotonic())

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._thread.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


def second_embed_replica(disable: str = "") -> float:
    """Seconds from the write of its assignment to its first answer; the first replica has been running before."""
    cluster = LocalCluster(external_etcd=True, disable=disable)
    assert cluster.etcd is not None
    watch = AssignmentWatch(cluster.etcd)
    try:
        node = cluster.start_node()
        _deploy_embed(cluster, 1)
        eventually(lambda: _pid(node), 60, "the first replica answers")
        if not disable:
            time.sleep(0.5)  # the launcher is "warm" still, before it begins to learn
            eventually(lambda: node.nodes().nodes[0].launcher == "warm", 120, "the launcher has learned")
        [first] = cluster.await_replicas(1)
        with ThreadPoolExecutor(2) as pool:
            answered = pool.submit(_first_answer_of_another, node, first.process.pid)
            _deploy_embed(cluster, 2)
            answered_at = answered.result(120)
        second = next(handle for handle in cluster.await_replicas(2) if handle.process.pid != first.process.pid)
        return answered_at - watch.written[second.name]
    finally:
        watch.close()
        cluster.close()


def _deploy_embed(cluster: LocalCluster, replicas: int) -> None:
    script = (
        "import serve_rt as serve, bench.apps as apps\n"
        f"serve.run(apps.Batched.options(num_replicas={replicas}).bind(), name='default', route_prefix='/')\n"
    )
    import sys

    # From the repository's root, so that `bench` travels with the application as any program's own modules do.
    ended = subprocess.run(
        [sys.executable, "-c", script], env=cluster.driver(), cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _pid(node: Node) -> int | None:
    body = json.dumps({"nonce": "x", "text": "a short sentence"}).encode()
    try:
        status, answer = node.http("/", method="POST", body=body, headers={"content-type": "application/json"})
    except OSError:
        return None
    return int(json.loads(answer)["pid"]) if status == 200 else None


def _first_answer_of_another(node: Node, first_pid: int) -> float:
    deadline = time.monotonic() + 110
    while time.monotonic() < deadline:
        pid = _pid(node)
        if pid and pid != first_pid:
            return time.monotonic()
    raise AssertionError("the second replica never answered")
