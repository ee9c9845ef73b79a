"""A cluster of real agents on this machine.

    cluster = LocalCluster(); node = cluster.start_node(); cluster.deploy("echo", num_replicas=2)

Each node has its own short state dir and free ports; all share one token. `close()` ends everything as a user would
(SIGINT to the agents), then asserts that no process and no socket is left; what is left is killed by its pid, so that
one failed test does not hurt the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_rt.config.paths import StateDir
from serve_rt.credentials import control_channel
from serve_rt.credentials.token import ClusterToken
from serve_rt.model.status import NodesOverview, ServeStatus
from serve_rt.pb import control_pb2 as pb
from serve_rt.wire.records import decode
from serve_rt.wire.services import Stub
from tests.cluster.etcd_server import EtcdServer
from tests.cluster.processes import (
    HandleFile,
    ProcessId,
    eventually,
    handle_files,
    listener_pid,
    processes_of,
)

HERE = Path(__file__).resolve().parent
READY_S = 30.0
LEAVE_S = 30.0


class Node:
    """One agent with its state dir; it may be killed and started again."""

    def __init__(self, folder: Path, options: list[str], env: Mapping[str, str]) -> None:
        self.state = StateDir(folder)
        self._options = options
        self.inside: tuple[str, ...] = ()
        """What the agent's command follows, to run on another machine of the tests (machines.py)."""
        self._env = dict(env)
        self._agent: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Node {self.ready.get('node_id', '?')} {self.state.path} http {self.ready.get('http_address', '?')}>"

    def start(self, *, disable: str | None = None, timeout_s: float = READY_S) -> Node:
        """Start the agent (again); returns when it is registered and its proxy answers."""
        self.launch(disable=disable)
        self.await_ready(timeout_s)
        return self

    def launch(self, *, disable: str | None = None, fail: str = "") -> None:
        """`fail`: a failpoint for this start of the agent alone."""
        if disable is not None:
            self._env["SERVE_TEST_DISABLE"] = disable
        env = {**self._env, "SERVE_TEST_FAIL": fail} if fail else self._env
        if self._agent is not None:
            self._agent.wait(10)  # the one before: killed by its pid, reaped here
        self._ready_fd, child_fd = os.pipe()
        command = [*self.inside, sys.executable, "-m", "serve_rt.agents.main", "start"]
        command += ["--state-dir", str(self.state.path)]
        command += ["--ready-fd", str(child_fd), *self._options]
        with (self.state.path / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, pass_fds=(child_fd,),
                start_new_session=True, cwd=self.state.path,
            )  # fmt: skip
        os.close(child_fd)

    def await_ready(self, timeout_s: float = READY_S) -> None:
        text = b""
        deadline = time.monotonic() + timeout_s
        try:
            while not text.endswith(b"\n"):
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"the agent was not ready within {timeout_s:g} s\n{self.logs()}"
                if select.select([self._ready_fd], [], [], left_s)[0]:
                    piece = os.read(self._ready_fd, 4096)
                    assert piece, f"the agent ended before it was ready\n{self.logs()}"
                    text += piece
        finally:
            os.close(self._ready_fd)
        self.ready = json.loads(text)

    def close_ready(self) -> None:
        """Instead of waiting: it ended, as it was meant to."""
        os.close(self._ready_fd)

    # --- looking

    @property
    def agent(self) -> ProcessId:
        assert self._agent is not None
        return ProcessId.of(self._agent.pid)

    @property
    def address(self) -> str:
        return str(self.ready["address"])

    @property
    def http_host(self) -> str:
        return str(self.ready["http_address"]).rpartition(":")[0]

    @property
    def http_port(self) -> int:
        return int(str(self.ready["http_address"]).rpartition(":")[2])

    def handles(self, kind: str) -> list[HandleFile]:
        return [handle for handle in handle_files(self.state.path) if handle.kind == kind]

    def replicas(self, app: str = "default") -> list[HandleFile]:
        return [handle for handle in self.handles("replica") if handle.name.startswith(f"{app}#")]

    def launcher(self) -> ProcessId:
        return ProcessId.of(listener_pid(self.state.launcher_socket))

    def etcd_socket(self) -> str:
        """Where another agent of this machine joins the embedded etcd."""
        sockets = sorted(path for path in self.state.etcd.rglob("*") if path.is_socket())
        clients = [path for path in sockets if "peer" not in path.name]
        assert clients, f"no socket of an embedded etcd in {self.state.etcd}"
        return f"unix:{clients[0]}"

    def http(
        self, path: str = "/", *, method: str = "GET", body: bytes | None = None,
        headers: Mapping[str, str] | None = None, timeout_s: float = 30.0,
    ) -> tuple[int, bytes]:  # fmt: skip
        connection = http.client.HTTPConnection(self.http_host, self.http_port, timeout=timeout_s)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, body = self.http(path)
        assert status == 200, f"{path}: {status} {body[:200]!r}"
        return json.loads(body)

    def _call(self, method: str, request: Any) -> Any:
        async def call() -> Any:
            channel = control_channel(self.address, ClusterToken.read(self.state.token))
            try:
                return await getattr(Stub(channel, pb.DESCRIPTOR.services_by_name["Agent"]), method)(request, timeout=5)
            finally:
                await channel.close()

        return asyncio.run(call())

    def status(self) -> ServeStatus:
        return decode(self._call("Status", pb.StatusRequest()).status, ServeStatus)

    def nodes(self) -> NodesOverview:
        return decode(self._call("Nodes", pb.NodesRequest()).nodes, NodesOverview)

    def logs(self, tail: int = 40) -> str:
        text = ""
        for path in [self.state.path / "agent.log", *sorted(self.state.logs.rglob("*.log*"))]:
            if path.is_file():
                lines = path.read_text(errors="replace").splitlines()[-tail:]
                text += f"\n--- {path}\n" + "\n".join(lines)
        return text

    # --- ending

    def wait_agent(self, timeout_s: float = 15.0) -> int:
        assert self._agent is not None
        return self._agent.wait(timeout_s)

    def leave(self) -> None:
        """SIGINT to the agent, or `serve-agent stop` where there is none."""
        if self._agent is not None and self._agent.poll() is None:
            self._agent.send_signal(signal.SIGINT)
            try:
                returncode = self._agent.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                self._agent.kill()
                self._agent.wait(5)
                raise AssertionError(f"the agent did not leave within {LEAVE_S:g} s\n{self.logs()}") from None
            if returncode != -signal.SIGKILL:  # killed by a fault just before: it never got to leaving
                return
        if not list(processes_of(self.state.path)):
            return  # it never got far, or has left already
        command = [sys.executable, "-m", "serve_rt.agents.main", "stop", "--state-dir", str(self.state.path)]
        stopped = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=LEAVE_S + 30)
        assert stopped.returncode == 0, f"serve-agent stop: {stopped.stdout}{stopped.stderr}"


class LocalCluster:
    """*Resources*: the creator calls `close()`."""

    def __init__(
        self, *, external_etcd: bool = False, disable: str = "", hide_gpus: bool = True,
        test_env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """`test_env`: more switches for tests, by the end of their names (WAITS, FAIL)."""
        self.folder = Path(tempfile.mkdtemp(prefix="srt-", dir="/tmp"))
        self.nodes: list[Node] = []
        self.etcd = EtcdServer().start() if external_etcd else None
        self._disable = disable
        self._test_env = {f"SERVE_TEST_{name}": value for name, value in (test_env or {}).items()}
        self._hide_gpus = hide_gpus
        self._app_folder = self.folder / "user"
        self._app_folder.mkdir()
        self.site_packages = self.folder / "site-packages"
        """On the import path of every process of the cluster: a test may install a package here."""
        self.site_packages.mkdir()
        for name in ("apps.py", "chain_apps.py", "cancel_apps.py", "scaling_apps.py", "deploy.py"):
            shutil.copy(HERE / name, self._app_folder / name)

    def _env(self, state: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVE_", "COV_"))}
        kept |= {"SERVE_STATE_DIR": str(state), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(self.site_packages)}
        kept |= {"CUDA_VISIBLE_DEVICES": ""} if self._hide_gpus else {}
        return kept | self._test_env | ({"SERVE_TEST_DISABLE": self._disable} if self._disable else {})

    def new_node(self, *options: str, cpus: int = 32, etcd: str = "") -> Node:
        """A node that joins the others (by the external etcd, or the first node's socket, or another way to either);
        not started yet."""
        folder = self.folder / f"n{len(self.nodes)}"
        folder.mkdir(mode=0o700)
        if self.nodes:
            shutil.copy(self.nodes[0].state.token, folder / "token")
        else:
            ClusterToken.create(folder / "token")
        arguments = ["--port", "0", "--http-port", "0", "--num-cpus", str(cpus), *options]
        if etcd:
            arguments += ["--etcd", etcd]
        elif self.etcd is not None:
            arguments += ["--etcd", self.etcd.endpoint]
        elif self.nodes:
            arguments += ["--etcd", self.nodes[0].etcd_socket()]
        node = Node(folder, arguments, self._env(folder))
        self.nodes.append(node)
        return node

    def start_node(self, *options: str, cpus: int = 32, etcd: str = "") -> Node:
        return self.new_node(*options, cpus=cpus, etcd=etcd).start()

    @property
    def node(self) -> Node:
        return self.nodes[0]

    # --- deploying

    def driver(self, node: Node | None = None) -> dict[str, str]:
        """Environment of a user's process on a node."""
        node = node or self.node
        return {**self._env(node.state.path), "SERVE_ADDRESS": node.address}

    def deploy_later(
        self, kind: str, *, name: str = "default", route: str = "/", node: Node | None = None,
        arguments: Mapping[str, Any] | None = None, **options: Any,
    ) -> subprocess.Popen[str]:  # fmt: skip
        wanted = {"kind": kind, "name": name, "route_prefix": route, "options": options, "arguments": arguments or {}}
        options.setdefault("ray_actor_options", {"num_cpus": 0.1})
        return subprocess.Popen(
            [sys.executable, str(self._app_folder / "deploy.py"), json.dumps(wanted)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.driver(node), cwd=self._app_folder,
        )  # fmt: skip

    def deploy(self, kind: str, *, timeout_s: float = 40.0, **wanted: Any) -> None:
        """Returns when the application runs."""
        child = self.deploy_later(kind, **wanted)
        try:
            output, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
            raise AssertionError(f"deploying {kind} took more than {timeout_s:g} s\n{output}\n{self.logs()}") from None
        assert child.returncode == 0, f"deploying {kind} failed:\n{output}\n{self.logs()}"

    def cli(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "serve_rt.cli.main", *arguments],
            capture_output=True, text=True, env=self.driver(), cwd=self._app_folder, timeout=timeout_s,
        )  # fmt: skip

    def ready_replicas(self, app: str) -> list[HandleFile]:
        """READY replicas, however many there are now."""
        ready = {
            replica.replica_id
            for overview in self.live_node().nodes().nodes
            for replica in overview.replicas
            if replica.state == "RUNNING" and replica.replica_id.startswith(f"{app}#")
        }
        return [handle for node in self.nodes for handle in node.replicas(app) if handle.name in ready]

    def await_replicas(self, count: int, *, app: str = "default", timeout_s: float = 20.0) -> list[HandleFile]:
        """Exactly `count` READY replicas, as the nodes report them."""

        def ready() -> list[HandleFile]:
            names = {
                replica.replica_id
                for overview in self.live_node().nodes().nodes
                for replica in overview.replicas
                if replica.state == "RUNNING" and replica.replica_id.startswith(f"{app}#")
            }
            found = [handle for node in self.nodes for handle in node.replicas(app) if handle.name in names]
            return found if len(found) == len(names) == count else []

        return eventually(ready, timeout_s, f"{count} ready replicas of {app}")

    def live_node(self) -> Node:
        for node in self.nodes:
            if node._agent is not None and node._agent.poll() is None and node.ready:
                return node
        raise AssertionError("no agent is running")

    # --- the end

    def logs(self) -> str:
        return "".join(f"\n=== {node!r}{node.logs()}" for node in self.nodes)

    def close(self) -> None:
        """Leave, then look for what was left behind."""
        problems = []
        for node in reversed(self.nodes):
            try:
                node.leave()
            except (AssertionError, subprocess.TimeoutExpired, OSError) as error:
                problems.append(str(error))
        leftovers = []
        with contextlib.suppress(AssertionError):
            eventually(lambda: not list(processes_of(self.folder)), 5.0, "all processes gone")
        for process, command in processes_of(self.folder):
            leftovers.append(f"process {process.pid}: {command}")
            process.kill_if_alive()
        leftovers += [str(path) for path in self.folder.rglob("*") if path.is_socket()]
        for node in self.nodes:
            leftovers += [str(path) for path in node.state.handles.rglob("*.json")]
        text = self.logs() if problems or leftovers else ""
        if self.etcd is not None:
            self.etcd.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not problems and not leftovers, f"left behind: {leftovers}; problems: {problems}{text}"
