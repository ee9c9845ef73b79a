"""The first steps of an agent, before anything heavy is imported: the state dir is ours, the launcher is coming up.

Called by `main`. The launcher's start and our own imports take a quarter of a second each, so they run side by side;
then `agent` takes over.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from serve_rt.agents.listeners import refuse_if_taken
from serve_rt.agents.settings import Settings
from serve_rt.agents.state_lock import StateLock
from serve_rt.config import failpoints, protections, waits
from serve_rt.errors import ServeException

if TYPE_CHECKING:
    from serve_rt.agents.agent import Agent

log = logging.getLogger(__name__)


async def boot(settings: Settings) -> int:
    """Run an agent until it ends; the exit code. *Errors*: ServeException when it cannot start."""
    settings.state.create()
    lock = StateLock.take(settings.state.lock)
    try:
        for variable in (protections.VARIABLE, failpoints.VARIABLE, waits.VARIABLE):
            if os.environ.get(variable):
                log.warning("%s=%s is for tests", variable, os.environ[variable], extra={"action": "protections_off"})
        refuse_if_taken(settings.host, settings.port, "--port")
        _share_token(settings)
        agent = await _agent(settings)
        return await agent.run()
    finally:
        lock.release()


async def _agent(settings: Settings) -> Agent:
    """Import the rest while the launcher starts."""
    from serve_rt.agents.launcher_link import LauncherLink

    launcher = LauncherLink(settings.state)
    connecting = asyncio.create_task(launcher.start(), name="connect to the launcher")
    # A started launcher must be past its exec before this thread holds the interpreter for the imports.
    await asyncio.sleep(0)
    module = await asyncio.to_thread(importlib.import_module, "serve_rt.agents.agent")
    upgrade = importlib.import_module("serve_rt.agents.upgrade")
    found = await upgrade.upgrade_launcher(launcher, settings.state, await connecting)
    agent: Agent = module.Agent(settings, launcher, found)
    return agent


def _share_token(settings: Settings) -> None:
    """An agent that joins another of this machine by its etcd socket takes that one's token, if it has none."""
    endpoints = settings.etcd.endpoints if settings.etcd is not None else ()
    for endpoint in endpoints:
        theirs = Path(endpoint.removeprefix("unix:")).parent.parent / "token"
        if endpoint.startswith("unix:") and theirs.is_file() and not settings.state.token.exists():
            try:
                shutil.copyfile(theirs, settings.state.token)
                settings.state.token.chmod(0o600)
            except OSError as error:
                raise ServeException(f"cannot take the cluster token from {theirs}: {error.strerror}") from error
