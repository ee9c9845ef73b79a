"""Machines of their own: network namespaces around a router that can lose what one says to another.

A `Machine` is a namespace with one address; the router drops by rule (`ip rule … blackhole`), so no sender is told
anything: no RST, no FIN, no ICMP. This process is on the network too, at
`network.here`, and so is the etcd of `machines_cluster`. Needs root and iproute2; `why_not` says what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.cluster.etcd_server import EtcdServer
from tests.cluster.harness import LocalCluster, Node
from tests.cluster.processes import eventually

UNREACHED_S = 1


def why_not() -> str:
    """Why there can be no machines here, "" when there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    probe = subprocess.run(["ip", "netns", "add", f"srt-probe-{os.getpid()}"], capture_output=True, text=True)
    if probe.returncode:
        return f"no network namespaces here: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", f"srt-probe-{os.getpid()}"], check=True)
    return ""


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


@dataclass(frozen=True)
class Machine:
    namespace: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace)

    def reaches(self, address: str, port: int) -> bool:
        """Whether a connection from there is answered at all, be it by a refusal."""
        connect = f"exec 3<>/dev/tcp/{address}/{port}"
        command = [*self.inside, "timeout", str(UNREACHED_S), "bash", "-c", connect]
        return subprocess.run(command, capture_output=True).returncode != 124


@dataclass
class Network:
    """*Resources*: `network()` makes and ends it."""

    subnet: str
    """The first two numbers of all addresses."""
    router: str
    machines: list[Machine] = field(default_factory=list)

    @property
    def here(self) -> str:
        return f"{self.subnet}.0.2"

    def add(self) -> Machine:
        number = len(self.machines) + 1
        machine, link = Machine(f"{self.router}-{number}", f"{self.subnet}.{number}.2"), f"to{number}"
        _ip("netns", "add", machine.namespace)
        self.machines.append(machine)
        _ip("-n", machine.namespace, "link", "set", "lo", "up")
        peer = ("peer", "name", "eth0", "netns", machine.namespace)
        _ip("-n", self.router, "link", "add", link, "type", "veth", *peer)
        self._wire(number, link, ("-n", machine.namespace), "eth0")
        _ip("-n", machine.namespace, "route", "add", "default", "via", f"{self.subnet}.{number}.1")
        return machine

    def _wire(self, number: int, at_router: str, there: tuple[str, ...], device: str) -> None:
        _ip("-n", self.router, "address", "add", f"{self.subnet}.{number}.1/30", "dev", at_router)
        _ip("-n", self.router, "link", "set", at_router, "up")
        _ip(*there, "address", "add", f"{self.subnet}.{number}.2/30", "dev", device)
        _ip(*there, "link", "set", device, "up")

    def start(self) -> None:
        _ip("netns", "add", self.router)
        _ip("-n", self.router, "link", "set", "lo", "up")
        forward = ["ip", "netns", "exec", self.router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
        subprocess.run(forward, check=True)
        peer = ("peer", "name", self._ours, "netns", str(os.getpid()))
        _ip("-n", self.router, "link", "add", "here", "type", "veth", *peer)
        self._wire(0, "here", (), self._ours)
        _ip("route", "add", f"{self.subnet}.0.0/16", "via", f"{self.subnet}.0.1")

    @property
    def _ours(self) -> str:
        return f"srt{os.getpid()}"

    def stop(self) -> None:
        subprocess.run(["ip", "link", "delete", self._ours], capture_output=True)  # a namespace's end takes its time
        for namespace in (*(machine.namespace for machine in self.machines), self.router):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network(f"10.{100 + os.getpid() % 100}", f"srt-{os.getpid()}")
    try:
        made.start()
        yield made
    finally:
        made.stop()


@dataclass(frozen=True)
class Loses:
    """What `sender` says to `receiver` is lost on the way; `both` ways when asked."""

    network: Network
    sender: Machine
    receiver: Machine
    port: int
    """Anything that the receiver listens on, or nothing: it would be answered by a refusal."""
    both: bool = False

    def _pairs(self) -> list[tuple[str, str]]:
        pair = (self.sender.address, self.receiver.address)
        return [pair, pair[::-1]] if self.both else [pair]

    def apply(self) -> None:
        for sender, receiver in self._pairs():
            _ip("-n", self.network.router, "rule", "add", "from", sender, "to", receiver, "blackhole")

    def verify(self) -> None:
        assert not self.receiver.reaches(self.sender.address, self.port), "it is still answered"

    def heal(self) -> None:
        for sender, receiver in self._pairs():
            _ip("-n", self.network.router, "rule", "delete", "from", sender, "to", receiver, "blackhole")
        eventually(lambda: self.receiver.reaches(self.sender.address, self.port), 5, "it is answered again")


@dataclass(frozen=True)
class Unplugged:
    """Nobody gets a word from it or to it, not even that it is gone."""

    network: Network
    machine: Machine
    other: Machine
    port: int

    def _rules(self) -> list[tuple[str, ...]]:
        return [(side, self.machine.address, "blackhole") for side in ("from", "to")]

    def apply(self) -> None:
        for rule in self._rules():
            _ip("-n", self.network.router, "rule", "add", *rule)

    def verify(self) -> None:
        assert not self.other.reaches(self.machine.address, self.port), "it is still answered"

    def heal(self) -> None:
        for rule in self._rules():
            _ip("-n", self.network.router, "rule", "delete", *rule)


class MachinesCluster(LocalCluster):
    """Each node on a machine of its own, etcd where this process is."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.etcd = EtcdServer(network.here).start()
        self.network = network
        self.machines: list[Machine] = []

    def new_node(self, *options: str, cpus: int = 32, etcd: str = "") -> Node:
        machine = self.network.add()
        self.machines.append(machine)
        hosts = ("--host", machine.address, "--http-host", machine.address, "--insecure")
        node = super().new_node(*hosts, *options, cpus=cpus, etcd=etcd)
        node.inside = machine.inside
        return node


@contextlib.contextmanager
def machines_cluster(nodes: int) -> Iterator[MachinesCluster]:
    with network() as made:
        cluster = MachinesCluster(made)
        try:
            for _ in range(nodes):
                cluster.start_node()
            yield cluster
        finally:
            cluster.close()
