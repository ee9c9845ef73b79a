"""`logging_config` has its effect in the replica: level, encoding, folder, access log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import serve_rt as serve
from tests.cluster.processes import eventually
from tests.conformance.apps_logging import Talker
from tests.conformance.asking import ANSWER_S, Cluster
from tests.conformance.bullets import covers


def read(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("replica_talker_Talker_*.log")))


def run(**options: Any) -> Any:
    return serve.run(Talker.bind(), name="talker", route_prefix=None, **options)


@covers("1.9-25", "1.2-15")
def test_the_log_of_a_replica(cluster: Cluster, tmp_path: Path) -> None:
    config: dict[str, Any] = {"log_level": "DEBUG", "encoding": "JSON", "logs_dir": str(tmp_path / "json")}
    handle = run(logging_config={**config, "additional_log_standard_attrs": ["name"]})
    pid = handle.say.remote("one").result(timeout_s=ANSWER_S)
    lines = eventually(
        lambda: '"action": "request"' in (text := read(tmp_path / "json")) and text, 10, "the access line"
    )
    records = [json.loads(line) for line in lines.splitlines()]
    (quiet,) = [record for record in records if record["message"] == "quietly one"]
    assert (quiet["levelname"], quiet["application"], quiet["deployment"]) == ("DEBUG", "talker", "Talker")
    assert quiet["name"] == "ray.serve" and quiet["request_id"]

    config = {"log_level": "INFO", "enable_access_log": False, "logs_dir": str(tmp_path / "text")}
    run(logging_config=config)

    def said() -> str:
        assert handle.say.remote("two").result(timeout_s=ANSWER_S) == pid, "a light change restarts nothing"
        return read(tmp_path / "text")

    text = eventually(lambda: "aloud two" in (found := said()) and found, 20, "the log moved")
    assert "quietly" not in text and "action=request" not in text
    with pytest.raises(ValueError, match="encoding"):
        run(logging_config={"encoding": "XML"})
    serve.delete("talker", _blocking=False)


@covers("1.2-15")
def test_a_deployments_own_logging_wins(cluster: Cluster, tmp_path: Path) -> None:
    own = Talker.options(logging_config={"logs_dir": str(tmp_path / "own")})
    handle = serve.run(
        own.bind(), name="talker", route_prefix=None, logging_config={"logs_dir": str(tmp_path / "application")}
    )
    handle.say.remote("mine").result(timeout_s=ANSWER_S)
    eventually(lambda: "aloud mine" in read(tmp_path / "own"), 10, "the line is in the deployment's own folder")
    assert not (tmp_path / "application").exists()
    serve.delete("talker", _blocking=False)
