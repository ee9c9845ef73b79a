"""`serve dashboard`: watch a running cluster and show it on a web page, until Ctrl-C.

A process of its own that a person starts when he wants to look: a cluster that nobody watches pays nothing for it, and
no port is open that nobody asked for. It holds the last quarter of an hour in memory and writes nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from serve_rt.aio import SystemClock, TaskOwner
from serve_rt.api.client import AgentClient
from serve_rt.config.addresses import is_loopback
from serve_rt.credentials import ClusterToken
from serve_rt.dashboard.watcher import Watcher, agent_clients
from serve_rt.dashboard.web import make_app
from serve_rt.errors import ConfigError

CLOSE_S = 2


def bind(host: str, port: int, insecure: bool) -> socket.socket:
    """*Errors*: ConfigError for an address that others reach, without `insecure`, or that cannot be had."""
    if not is_loopback(host) and not insecure:
        raise ConfigError(
            f"--host {host} lets others read names, messages and logs of this cluster without a password: use "
            "127.0.0.1 and an ssh tunnel (ssh -L 8265:127.0.0.1:8265 machine), or say --insecure"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror}; --port 0 takes any free port") from error


async def show(
    listener: socket.socket, cluster: str, client: AgentClient, token: ClusterToken, say: Callable[[str], None]
) -> None:
    """Serve the pages at `listener` until cancelled. `say` is told the address when they are served."""
    host, port = listener.getsockname()[:2]
    watcher = Watcher(cluster, client, agent_clients(token), SystemClock())
    hosts = ["localhost", "127.0.0.1", "[::1]", host] if is_loopback(host) else ["*"]
    tasks = TaskOwner("dashboard")
    config = uvicorn.Config(
        make_app(watcher, client, hosts), log_level="warning", access_log=False, lifespan="off",
        timeout_graceful_shutdown=CLOSE_S,
    )  # fmt: skip
    server = uvicorn.Server(config)
    try:
        await watcher.look()
        tasks.start_eternal(watcher.run(), name="watch")
        serving = tasks.start(server.serve(sockets=[listener]), name="web")
        say(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await tasks.close()
        await watcher.close()
