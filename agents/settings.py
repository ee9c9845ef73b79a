"""What one agent was told, read once from the command line and passed down.

`main` builds it; everything else takes it as it is. Values that contradict each other are refused here, before
anything was started.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_rt.config.addresses import is_loopback
from serve_rt.config.paths import StateDir
from serve_rt.errors import ConfigError
from serve_rt.model.proxies import ProxyLocation
from serve_rt.model.starts import EtcdAddress

MAX_PROXY_WORKERS = 64
"""As many as the launcher holds sockets for (`launcher/http_sockets`)."""
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}


@dataclass(frozen=True, slots=True)
class PortRange:
    first: int
    last: int

    @staticmethod
    def parse(text: str) -> PortRange:
        """`20000-29999`."""
        match = re.fullmatch(r"(\d+)-(\d+)", text.strip())
        if match is None:
            raise ConfigError(f"--replica-ports {text!r} is not a range like 20000-29999")
        first, last = int(match[1]), int(match[2])
        if not 1024 <= first <= last <= 65535:
            raise ConfigError(f"--replica-ports {text} must lie within 1024-65535, the first not above the last")
        return PortRange(first, last)


@dataclass(frozen=True, slots=True)
class Settings:
    state: StateDir
    cluster: str = "default"
    host: str = "127.0.0.1"
    port: int = 7300
    """Of the agent's gRPC server; 0 takes any free one."""
    advertise_host: str = ""
    """What others connect to; "" is `host`."""
    http_host: str = "127.0.0.1"
    http_port: int = 8000
    http_root_path: str = ""
    """Of the proxies' applications: what a reverse proxy before ours takes off each path."""
    http_keep_alive_timeout_s: float = 90.0
    http_request_timeout_s: float | None = None
    """For requests that bring no nearer deadline; None: no limit."""
    http_ssl_certfile: str = ""
    http_ssl_keyfile: str = ""
    http_limits: Mapping[str, float] = field(default_factory=dict)
    """Rows of `serve_rt.proxy.limits` that are not as usual."""
    replica_ports: PortRange = PortRange(20000, 29999)
    node_id: str = ""
    """ "": random, kept in the state dir."""
    etcd: EtcdAddress | None = None
    """None: this agent hosts an embedded one."""
    etcd_listen: str = ""
    """host:port that the embedded etcd listens on besides its Unix socket."""
    num_cpus: float | None = None
    memory_bytes: int | None = None
    num_gpus: int | None = None
    """Declares fake devices instead of asking the driver."""
    labels: Mapping[str, str] = field(default_factory=dict)
    custom: Mapping[str, int] = field(default_factory=dict)
    """Custom resources, in thousandths."""
    controller: bool = True
    proxy: bool = True
    proxy_workers: int = 1
    proxy_location: ProxyLocation | None = None
    """Of the whole cluster, which its first agent decides; None: not said."""
    drain_on_term: bool = False
    insecure: bool = False
    log_level: str = "INFO"
    ready_fd: int | None = None
    owner_pid: int | None = None
    orphan_timeout_s: float = 600.0
    """So long replicas live on with no agent."""

    @property
    def advertised(self) -> str:
        return self.advertise_host or self.host

    @property
    def https(self) -> bool:
        return bool(self.http_ssl_certfile)

    @property
    def owned(self) -> bool:
        """This cluster belongs to a driver or `serve run`: it ends, and forgets, with it."""
        return self.owner_pid is not None

    def check(self) -> Settings:
        """*Errors*: ConfigError naming the first setting that cannot be."""
        if not is_loopback(self.host) and not self.insecure:
            raise ConfigError(
                f"--host {self.host} can be reached from other machines and there is no TLS yet: "
                "use 127.0.0.1, or say --insecure if the network is trusted"
            )
        if self.proxy and not is_loopback(self.http_host) and not self.https and not self.insecure:
            raise ConfigError(
                f"--http-host {self.http_host} can be reached from other machines and speaks plain HTTP: "
                "give --http-ssl-certfile and --http-ssl-keyfile, or say --insecure if the network is trusted"
            )
        if self.host in ("0.0.0.0", "::") and not self.advertise_host:
            raise ConfigError(f"--host {self.host} needs --advertise-host: others must know where to connect")
        if self.etcd_listen and not self.insecure and not is_loopback(self.etcd_listen.rpartition(":")[0]):
            raise ConfigError(f"--etcd-listen {self.etcd_listen} is open to other machines: say --insecure to do so")
        if self.etcd is not None and self.etcd_listen:
            raise ConfigError("--etcd-listen is for the embedded etcd; with --etcd there is none")
        for option, name, pattern in (
            ("--node-id", self.node_id or "x", _NODE_ID),
            ("--cluster", self.cluster, _CLUSTER),
        ):
            if not pattern.fullmatch(name):
                raise ConfigError(f"{option} {name!r} may hold letters, digits, '.', '_', '-', at most 63 of them")
        if self.num_cpus is not None and self.num_cpus < 0:
            raise ConfigError(f"--num-cpus {self.num_cpus} is negative")
        if not 0 <= self.proxy_workers <= MAX_PROXY_WORKERS:
            raise ConfigError(f"--proxy-workers {self.proxy_workers} must lie within 0-{MAX_PROXY_WORKERS}")
        self._check_http()
        return self

    def _check_http(self) -> None:
        root = self.http_root_path
        if root and (not root.startswith("/") or root.endswith("/")):
            raise ConfigError(f"--http-root-path {root!r} must begin with a slash and not end with one, as /base")
        for option, seconds in (
            ("--http-keep-alive-timeout-s", self.http_keep_alive_timeout_s),
            ("--http-request-timeout-s", self.http_request_timeout_s),
            ("--orphan-timeout-s", self.orphan_timeout_s),
        ):
            if seconds is not None and not seconds > 0:
                raise ConfigError(f"{option} {seconds:g} must be more than 0")
        if bool(self.http_ssl_certfile) != bool(self.http_ssl_keyfile):
            given, other = ("certfile", "keyfile") if self.http_ssl_certfile else ("keyfile", "certfile")
            raise ConfigError(f"--http-ssl-{given} needs --http-ssl-{other}: HTTPS takes both")
        if self.https and self.proxy:
            from serve_rt.credentials.http_tls import https_context  # where it is asked for

            https_context(self.http_ssl_certfile, self.http_ssl_keyfile)


def parse_memory(text: str) -> int:
    """`8GiB`, `500M`, `1000000`: bytes.

    >>> parse_memory("1KiB"), parse_memory("2M"), parse_memory("7")
    (1024, 2000000, 7)
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--memory {text!r} is not an amount like 8GiB, 500M or 1000000")
    unit = (match[2] or "").upper()
    return int(float(match[1]) * (_BINARY_UNITS.get(unit) or _UNITS[unit]))


def parse_labels(texts: tuple[str, ...]) -> dict[str, str]:
    """`zone=a,disk=ssd`, given once or several times."""
    labels: dict[str, str] = {}
    for pair in (pair for text in texts for pair in text.split(",") if pair.strip()):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--labels {pair!r} is not of the form name=value")
        labels[name.strip()] = value.strip()
    return labels


def parse_endpoints(text: str) -> tuple[str, ...]:
    """`a:2379,b:2379` or `unix:/path`; schemes http:// and https:// are taken off."""
    endpoints = tuple(part.strip().removeprefix("http://").removeprefix("https://") for part in text.split(","))
    for endpoint in endpoints:
        if endpoint.startswith("unix:") and len(endpoint) > len("unix:"):
            continue
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"--etcd {endpoint!r} is not host:port or unix:/path")
    return endpoints


def parse_resources(texts: tuple[str, ...]) -> dict[str, int]:
    """*Errors*: ConfigError naming the pair that is not name=number."""
    amounts: dict[str, int] = {}
    for pair in (one for text in texts for one in text.split(",") if one.strip()):
        name, sign, value = pair.partition("=")
        try:
            amounts[name.strip()] = round(1000 * float(value))
        except ValueError:
            sign = ""
        if not sign or not name.strip() or amounts[name.strip()] < 0:
            raise ConfigError(f"--resources {pair!r} is not of the form name=number")
    return amounts
