"""Scenario files: blocks of commands, `----`, and the transcript they must give. See scenarios/*.txt and README.md."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import fields

from serve_rt.controller.plan import Plan, describe
from serve_rt.controller.settings import ControlSettings
from serve_rt.controller.status import build_status
from serve_rt.model.ids import AppName, DeploymentKey, DeploymentName, NodeId, ReplicaId, VersionId
from serve_rt.model.node import NodeMark
from serve_rt.model.resources import Resources
from serve_rt.model.spec import AutoscalingOptions, DeploymentOptions, GuardOptions
from serve_rt.model.tally import Tally
from tests.controller.world import World, application, deployment_spec, node_record

SEPARATOR = "----"


def run(text: str) -> str:
    """The file again, with the transcripts as they are now."""
    teller = _Teller()
    out: list[str] = []
    for block in text.strip().split("\n\n"):
        commands = [line for line in block.split(f"\n{SEPARATOR}")[0].splitlines()]
        told = [line for command in commands if not command.startswith("#") for line in teller.do(command)]
        said = [SEPARATOR, *(told or ["(nothing)"])] if any(not c.startswith("#") for c in commands) else []
        out.append("\n".join([*commands, *said]))
    return "\n\n".join(out) + "\n"


class _Teller:
    def __init__(self) -> None:
        self.world = World()
        self._names: dict[str, str] = {}

    def do(self, command: str) -> list[str]:
        verb, *words = shlex.split(command)
        method: Callable[..., list[str]] = getattr(self, f"_{verb}")
        plain = [word for word in words if "=" not in word]
        named = dict(word.split("=", 1) for word in words if "=" in word)
        return [self._short(line) for line in method(*plain, **named)]

    # --- commands -------------------------------------------------------------------------------------------------

    def _node(self, name: str, cpu: str = "4", memory_mib: str = "8192", gpus: str = "0", **labels: str) -> list[str]:
        record = node_record(name, cpu=int(float(cpu) * 1000), memory=int(memory_mib) << 20, gpus=int(gpus), **labels)
        self.world.add_node(record)
        return []

    def _deploy(
        self, app: str, version: str = "v1", replicas: str = "1", ingress: str = "d", inner: str = "", prefix: str = "",
        **options: str,
    ) -> list[str]:  # fmt: skip
        """`inner=x:v1,y:v2`: further deployments that the ingress calls."""
        resources = Resources(
            milli_cpu=int(float(options.pop("cpu", "1")) * 1000),
            memory_bytes=int(options.pop("memory_mib", "0")) << 20,
            milli_gpu=int(float(options.pop("gpu", "0")) * 1000),
        )
        guard = GuardOptions(window_s=float(options.pop("guard_s"))) if "guard_s" in options else None
        known = {f.name: f.type for f in fields(DeploymentOptions)}
        plain = {name: int(value) for name, value in options.items() if name in known}
        labels = {name: value for name, value in options.items() if name not in known}
        knobs = {f.name for f in fields(AutoscalingOptions)} & labels.keys()
        auto = AutoscalingOptions(**{name: json.loads(labels.pop(name)) for name in knobs}) if knobs else None
        plain |= {"num_replicas": int(replicas)}
        spec = deployment_spec(
            ingress, version, resources=resources, labels=labels, autoscaling=auto, guard=guard, **plain
        )
        called = [deployment_spec(*one.split(":")) for one in inner.split(",") if one]
        self.world.deploy(
            application(app, spec, *called, deploy_id=f"{app}{self.world.revision}", prefix=prefix or f"/{app}")
        )
        return []

    def _delete(self, app: str) -> list[str]:
        self.world.delete_app(app)
        return []

    def _mark(self, node: str, mark: str) -> list[str]:
        self.world.mark(node, NodeMark(mark))
        return []

    def _lose(self, node: str) -> list[str]:
        self.world.lose(node)
        return []

    def _back(self, node: str) -> list[str]:
        self.world.back(node)
        return []

    def _failing(self, version: str) -> list[str]:
        self.world.failing.add(version)
        return []

    def _stuck(self, version: str) -> list[str]:
        self.world.stuck.add(version)
        return []

    def _crash(self, name: str) -> list[str]:
        replica = next(replica for replica, short in self._names.items() if short == name)
        self.world.crash(ReplicaId(replica))
        return []

    def _wipe(self) -> list[str]:
        """The store forgets everything but what agents write again."""
        world, old = self.world, self.world.cluster
        for app in old.apps:
            world.delete(f"/serve-rt/test/apps/{app}")
        for a in old.assignments.values():
            world.delete(f"/serve-rt/test/assign/{a.node_id}/{a.replica_id}")
        for key in old.deployments:
            world.delete(f"/serve-rt/test/deployments/{key.app}/{key.deployment}")
            world.delete(f"/serve-rt/test/routes/{key.app}/{key.deployment}/0")
        return []

    def _advance(self, seconds: str) -> list[str]:
        self.world.now += float(seconds)
        return []

    def _demand(self, app: str, requests: str) -> list[str]:
        self.world.demand[DeploymentKey(AppName(app), DeploymentName("d"))] = int(requests)
        self.world.look()
        return []

    def _tally(self, app: str, version: str, answered: str, errors: str) -> list[str]:
        key = DeploymentKey(AppName(app), DeploymentName("d"))
        of = self.world.tallies.setdefault(key, {})
        of[VersionId(version)] = Tally(int(answered), int(errors))
        return []

    def _silent(self, yes: str) -> list[str]:
        self.world.silent = yes == "yes"
        return []

    def _newleader(self) -> list[str]:
        self.world.new_leader()
        return []

    def _nosurge(self) -> list[str]:
        self.world.settings = ControlSettings(surge=False)
        return []

    def _routes(self, app: str) -> list[str]:
        serving = self.world.cluster.serving(AppName(app))
        return [f"{app}: none"] if serving is None else [f"{app}: {serving.route_prefix} leads to {serving.ingress}"]

    def _nohandover(self) -> list[str]:
        self.world.settings = ControlSettings(handover=False)
        return []

    def _plan(self) -> list[str]:
        return self._told(self.world.plan())

    def _step(self) -> list[str]:
        told = self._told(self.world.step())
        self.world.check_safety()
        return told

    def _agents(self, times: str = "1") -> list[str]:
        for _ in range(int(times)):
            self.world.agents()
        return []

    def _agent(self, node: str) -> list[str]:
        self.world.agent(NodeId(node))
        return []

    def _settle(self) -> list[str]:
        return [line for plan in self.world.settle() for line in self._told(plan)]

    def _status(self, app: str) -> list[str]:
        status = build_status(self.world.cluster, 0.0, 0.0)
        overview = status.applications.get(app)
        if overview is None:
            return [f"{app}: none"]
        lines = [f"{app}: {overview.status}"]
        for name, d in overview.deployments.items():
            states = " ".join(f"{state}={count}" for state, count in sorted(d.replica_states.items()))
            lines.append(f"{name}: {d.status} {d.status_trigger} [{states}] {d.message}".rstrip().replace("\n", " | "))
        return lines

    def _replicas(self) -> list[str]:
        return [
            f"{a.replica_id} on {a.node_id} {a.spec.version} {a.goal.name}"
            for a in sorted(self.world.cluster.assignments.values(), key=lambda a: a.replica_id)
        ]

    def _told(self, plan: Plan) -> list[str]:
        return [*(line for action in plan.actions for line in describe(action).splitlines()), *plan.notes]

    def _short(self, line: str) -> str:
        """Replica ids are random letters: here they are numbered in the order they appear."""

        def number(match: re.Match[str]) -> str:
            named = match[1] if match[2] == "d" else f"{match[1]}.{match[2]}"
            return self._names.setdefault(match[0], f"{named}#{len(self._names) + 1}")

        return re.sub(r"\b(\w+)#(\w+)#[a-z]{6}\b", number, line).replace("#d ", " ")
