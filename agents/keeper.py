"""Keeps one replica of this node: holds its Record, asks `life_cycle.decide`, and does what that says.

Owned by `supervisor`, one per replica. Everything it sees (the launcher's exits, the replica's own reports, health
verdicts, the leader's word) becomes a new Record first; then it steps. Doing runs in tasks of its own; the Record says
what is under way, so a step never does a thing twice.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace

from serve_rt.agents import health, life_cycle
from serve_rt.agents.killing import kill_until_dead, last_stacks
from serve_rt.agents.launcher.records import Exit, Handle
from serve_rt.agents.launcher_link import LauncherLink
from serve_rt.agents.life_cycle import Action, Drain, Forget, Kill, Process, Record, Settle, Start
from serve_rt.agents.memory import AgentMemory, Copy
from serve_rt.agents.node import ThisNode
from serve_rt.agents.probe import Probe
from serve_rt.agents.replica_link import ReplicaLink
from serve_rt.agents.starting import Starter
from serve_rt.aio import Clock, TaskOwner
from serve_rt.config.protections import Protection, enabled
from serve_rt.errors import ServeException
from serve_rt.model.ids import ReplicaId
from serve_rt.model.replica import Assignment, Goal, Observed, ReplicaState
from serve_rt.pb import replica_pb2 as pb

log = logging.getLogger(__name__)
_LAST_REPORT_S = 0.3
"""A failed constructor's traceback travels beside the news of the exit: wait so long for it."""


class Keeper:
    """*Resources*: `supervisor` awaits `close()`; the process itself goes on."""

    def __init__(
        self,
        copy: Copy,
        record: Record,
        node: ThisNode,
        launcher: LauncherLink,
        starter: Starter,
        memory: AgentMemory,
        clock: Clock,
        on_change: Callable[[Keeper], None],
        on_learned: Callable[[tuple[str, ...]], None],
        devices_free: Callable[[Keeper], bool],
    ) -> None:
        self.copy = copy
        self.record = record
        self.withdrawn = False
        """The leader has surely taken the assignment away."""
        self.forgotten = False
        self._node, self._launcher, self._starter, self._memory = node, launcher, starter, memory
        self._clock = clock
        self._on_change = on_change
        self._on_learned = on_learned
        self._devices_free = devices_free
        self._tasks = TaskOwner(f"keeper of {copy.assignment.replica_id}")
        self._link: ReplicaLink | None = None
        self._probe: asyncio.Task[None] | None = None
        self._probing: Probe | None = None
        self._dead = asyncio.Event()
        self._reconfiguring = False
        self._died_at_revision = 0
        self._since_wall = self._clock.wall()

    @property
    def replica_id(self) -> ReplicaId:
        return self.copy.assignment.replica_id

    @property
    def address(self) -> str:
        return f"{self._node.settings.advertised}:{self.copy.port}" if self.copy.port else ""

    @property
    def autoscaling_stats(self) -> Mapping[str, float]:
        """Of a replica that serves, as it said last; most say none."""
        probing = self._probing if self.record.state is ReplicaState.READY else None
        return probing.stats if probing is not None else {}

    @property
    def assignment(self) -> Assignment | None:
        """As `decide` wants it."""
        return None if self.withdrawn else self.copy.assignment

    def observed(self) -> Observed | None:
        """What the leader is told; None when nothing of the replica is left here."""
        if self.forgotten or self.record.state is ReplicaState.STOPPED:
            return None
        return Observed(
            replica_id=self.replica_id,
            node_id=self._node.node_id,
            session=self._node.session,
            state=self.record.state,
            incarnation=self.record.incarnation,
            address=self.address,
            pid=self.record.pid,
            version=self.copy.assignment.spec.version,
            restarts=self.record.restarts,
            message=self.record.message,
            since_s=self._since_wall,
            devices=self.copy.assignment.devices,
            goal=self.copy.assignment.goal,
            user_config_json=self.copy.applied_user_config_json,
            docs_path=self.copy.docs_path,
            refused_user_config_json=self.copy.refused_user_config_json,
            config_error=self.copy.config_error,
        )

    async def metrics(self, timeout_s: float) -> bytes:
        """The replica's page; empty when it cannot be asked now."""
        try:
            return await self._link.metrics(timeout_s) if self._link is not None else b""
        except ServeException:  # starting, frozen, or of a version that has no such page
            return b""

    def take(self, copy: Copy) -> None:
        """The leader's word, maybe new. The port and the state stay ours."""
        changed = copy.assignment != self.copy.assignment or copy.store_incarnation != self.copy.store_incarnation
        self.copy = replace(
            self.copy,
            assignment=copy.assignment,
            store_incarnation=copy.store_incarnation,
            revision=copy.revision,
        )
        self.withdrawn = False
        if changed:
            self._memory.save(self.copy)
            self._on_change(self)

    def step(self) -> float | None:
        """Do what is to be done now; when to step again without an event."""
        if not self.withdrawn and life_cycle.is_wanted_again(self.copy.assignment, self.record):
            self._set(life_cycle.renewed(self.record))
        if self._must_ask():
            return None
        for action in life_cycle.decide(self.assignment, self.record, self._clock.monotonic()):
            if isinstance(action, Start) and not self._devices_free(self):
                return None  # the end of whoever holds them wakes the supervisor
            self._do(action)
        self._reconfigure_if_due()
        return None if self.forgotten else life_cycle.next_due(self.assignment, self.record)

    def _must_ask(self) -> bool:
        """Negative control only: without local restarts a crashed replica waits for a word of the store."""
        crashed = self.record.state is ReplicaState.BACKOFF and self.record.incarnation > 0
        return crashed and not enabled(Protection.LOCAL_RESTART) and self.copy.revision <= self._died_at_revision

    # --- what happened --------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle) -> None:
        """A former agent's process of this replica lives: take it over as it is."""
        now = self._clock.monotonic()
        self._set(life_cycle.adopted(replace(self.record, incarnation=handle.incarnation), handle.pid, now))
        log.info(
            "adopted %s",
            self.replica_id,
            extra={"action": "replica_adopted", "pid": handle.pid, "incarnation": handle.incarnation},
        )
        self._connect()
        if self.record.state in (ReplicaState.READY, ReplicaState.UNHEALTHY):
            self._start_probe()

    def exited(self, exit_: Exit) -> None:
        if exit_.incarnation != self.record.incarnation or self.record.process is Process.NONE:
            self._tasks.start(self._forget_handle(exit_.incarnation), name="forget an old handle")
            return
        if self._dead.is_set():
            # Found in its handle when we adopted, and told by the launcher again: counting it twice would also sweep
            # twice, and the second sweep, which knows no pid, would not wait for the devices (found by simulation).
            return
        self._dead.set()
        if self._probe is not None:
            self._probe.cancel()
        if self.record.state is ReplicaState.STARTING and self._link is not None:
            self._tasks.start(self._exited_while_starting(exit_), name="last report")
        else:
            self._died(exit_)

    async def _exited_while_starting(self, exit_: Exit) -> None:
        link = self._link
        if link is not None and not self.record.constructor_failed:
            try:
                async with asyncio.timeout(_LAST_REPORT_S):
                    await link.broken.wait()
            except TimeoutError:
                pass
        self._died(exit_)

    def _died(self, exit_: Exit) -> None:
        how = exit_.describe()
        options = self.copy.assignment.spec.options
        level = logging.INFO if self.record.state is ReplicaState.DRAINING else logging.WARNING
        log.log(level, "%s ended: %s", self.replica_id, how, extra={"action": "replica_ended"})
        self._died_at_revision = self.copy.revision
        pid = self.record.pid
        self._set(life_cycle.died(self.record, how, options.max_constructor_retry_count, self._clock.monotonic()))
        self._tasks.start(self._sweep(exit_.incarnation, pid), name="sweep")

    def _reported(self, report: pb.ReplicaReport) -> None:
        now = self._clock.monotonic()
        if report.phase == pb.REPLICA_PHASE_READY:
            first = self.record.state is ReplicaState.STARTING
            self.copy = replace(self.copy, docs_path=report.docs_path)
            self._set(life_cycle.ready(self.record, now))
            if first:
                log.info(
                    "%s is ready after %.2f s",
                    self.replica_id,
                    report.constructor_s,
                    extra={"action": "replica_ready", "incarnation": report.incarnation},
                )
                self._on_learned(tuple(report.constructor_imports))
            self._start_probe()
        elif report.phase == pb.REPLICA_PHASE_FAILED:
            self._set(life_cycle.constructor_raised(self.record, report.message))

    def _judged(self, verdict: health.Verdict) -> None:
        now = self._clock.monotonic()
        if verdict.action is health.Action.KEEP and self.record.state is ReplicaState.UNHEALTHY:
            log.info("%s answers again", self.replica_id, extra={"action": "replica_recovered"})
            self._set(life_cycle.ready(self.record, now))
        elif verdict.action is health.Action.EJECT and self.record.state is ReplicaState.READY:
            log.warning("%s: %s", self.replica_id, verdict.reason, extra={"action": "replica_out_of_rotation"})
            self._set(life_cycle.out_of_rotation(self.record, verdict.reason, now))
        elif verdict.action is health.Action.KILL and self.record.process is Process.RUNNING:
            self._do(Kill(verdict.reason, stacks=verdict.stacks))

    # --- doing ----------------------------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        now = self._clock.monotonic()
        match action:
            case Start(incarnation):
                self._dead = asyncio.Event()
                self._set(life_cycle.spawning(self.record, incarnation, now))
                self._tasks.start(self._start(incarnation), name=f"start {incarnation}")
            case Drain(timeout_s):
                at_once = self.record.state is ReplicaState.STARTING
                self._set(life_cycle.draining(self.record, timeout_s, now))
                self._tasks.start(self._drain(timeout_s, at_once), name="drain")
            case Kill(reason, stacks):
                log.warning("killing %s: %s", self.replica_id, reason, extra={"action": "replica_killed"})
                self._set(life_cycle.killing(self.record, reason))
                self._tasks.start(self._kill(self.record.incarnation, stacks=stacks), name="kill")
            case Settle():
                self._set(life_cycle.settled(self.record, now))
            case Forget():
                self.forgotten = True
                self._memory.drop(self.replica_id)
                self._on_change(self)

    async def _start(self, incarnation: int) -> None:
        try:
            self.copy = self._starter.with_port(self.copy)
            self._note_applied()
            spec = await self._starter.prepare(self.copy, incarnation)
            handle = await self._launcher.spawn(spec)
        except (ServeException, OSError) as error:
            log.error("cannot start %s: %s", self.replica_id, error, extra={"action": "replica_not_spawned"})
            self._set(life_cycle.not_spawned(self.record, str(error), self._clock.monotonic()))
            return
        log.info(
            "started %s",
            self.replica_id,
            extra={"action": "replica_started", "pid": handle.pid, "incarnation": incarnation, "port": self.copy.port},
        )
        if self.record.process is Process.SPAWNING:  # its exit may have been told before the spawn's answer
            self._set(life_cycle.spawned(self.record, handle.pid))
            self._connect()

    def _connect(self) -> None:
        host = self._node.replica_host
        self._link = ReplicaLink(
            host, self.copy.port, self.replica_id, self.record.incarnation, self._node.token, self._reported
        )
        self._link.start()

    def _start_probe(self) -> None:
        if self._link is None or (self._probe is not None and not self._probe.done()):
            return
        probe = Probe(self._link, self.record.pid, lambda: self.copy.assignment.spec.options, self._clock, self._judged)
        self._probing, self._probe = probe, self._tasks.start(probe.run(), name="probe")

    async def _drain(self, timeout_s: float, at_once: bool) -> None:
        """Ask the replica to finish; SIGTERM means the same to one that cannot be asked."""
        if not at_once and self._link is not None:
            try:
                await self._link.drain(timeout_s)
                return
            except ServeException as error:
                log.info("cannot ask %s to drain: %s", self.replica_id, error, extra={"action": "drain_by_signal"})
        await self._signal(signal.SIGTERM)

    async def _signal(self, signum: int) -> None:
        try:
            await self._launcher.signal(self.replica_id, self.record.incarnation, signum)
        except ServeException as error:
            log.warning("cannot signal %s: %s", self.replica_id, error, extra={"action": "signal_failed"})

    async def _kill(self, incarnation: int, *, stacks: bool) -> None:
        dead = self._dead
        if stacks:
            log_path = self._node.state.replica_log(self.copy.assignment.app, self.replica_id)
            stood = await last_stacks(self._launcher, self._link, self.replica_id, incarnation, log_path)
            if stood and not dead.is_set():
                self._set(replace(self.record, message=f"{self.record.message}\nIt stood here:\n{stood}"))
        await kill_until_dead(self._launcher, self.replica_id, incarnation, dead)

    async def _sweep(self, incarnation: int, pid: int) -> None:
        """What the dead process left running goes too, and its devices get free: then the next one may start."""
        link, self._link = self._link, None
        try:
            await self._launcher.kill_group(self.replica_id, incarnation)
        except ServeException as error:
            log.warning("sweeping %s: %s", self.replica_id, error, extra={"action": "sweep_failed"})
        lost = await self._starter.devices.until_free(self.copy.assignment.devices, pid)
        # The handle goes last: an agent that takes over before that waits for the devices, too (found by simulation).
        await self._forget_handle(incarnation)
        self._set(life_cycle.swept(self.record, self._clock.monotonic()))
        if lost:
            self._set(life_cycle.device_lost(self.record, lost, self._clock.monotonic()))
        if link is not None:
            await link.close()

    async def _forget_handle(self, incarnation: int) -> None:
        try:
            await self._launcher.forget(self.replica_id, incarnation)
        except ServeException as error:
            log.debug("handle %s.%s: %s", self.replica_id, incarnation, error)

    # --- light changes --------------------------------------------------------------------------------------------

    def _note_applied(self) -> None:
        """The process gets the configuration of the assignment it is started with."""
        self.copy = self.copy.applied(self.copy.assignment)

    def _reconfigure_if_due(self) -> None:
        assignment = self.copy.assignment
        ready = self.record.state is ReplicaState.READY and assignment.goal is Goal.RUN
        if ready and not self.copy.owes_nothing(assignment) and not self._reconfiguring and self._link is not None:
            self._reconfiguring = True
            self._tasks.start(self._reconfigure(assignment), name="reconfigure")

    async def _reconfigure(self, assignment: Assignment) -> None:
        link, config = self._link, assignment.spec.options.user_config_json
        try:
            if link is None:
                return
            changed = config if config != self.copy.applied_user_config_json else None
            error = await link.reconfigure(assignment, changed)
            if error and changed is not None:
                # Not killed for it: it serves with what it has, and started anew it would raise again.
                self.copy = self.copy.refused(assignment, error)
                log.warning("%s: its reconfigure raised:\n%s", self.replica_id, error, extra={"action": "refused"})
            else:
                self.copy = self.copy.applied(assignment)
                said = f" but for {error}" if error else ""
                log.info("%s took its new options%s", self.replica_id, said, extra={"action": "replica_reconfigured"})
            self._saved_change()
        except ServeException as error:
            log.warning("cannot reconfigure %s: %s", self.replica_id, error, extra={"action": "reconfigure_failed"})
            await asyncio.sleep(1.0)
        finally:
            self._reconfiguring = False
            self._on_change(self)

    # --- bookkeeping ----------------------------------------------------------------------------------------------

    def _set(self, record: Record) -> None:
        before, self.record = self.record, record
        if before.state is not record.state:
            self._since_wall = self._clock.wall()
        self._saved_change()

    def _saved_change(self) -> None:
        record = self.record
        copy = replace(
            self.copy,
            state=record.state,
            incarnation=record.incarnation,
            restarts=record.restarts,
            constructor_failures=record.constructor_failures,
            message=record.message,
        )
        if not self.forgotten:
            self.copy = copy
            self._memory.save(copy)
        self._on_change(self)

    async def close(self) -> None:
        await self._tasks.close()
        if self._link is not None:
            await self._link.close()
