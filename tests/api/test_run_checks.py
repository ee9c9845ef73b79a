"""What serve.run and its kin refuse before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import serve_rt as serve
from serve_rt.agents.main import _settings as settings_from
from serve_rt.agents.main import start as start_verb
from serve_rt.agents.settings import Settings
from serve_rt.api.run import _flags
from serve_rt.config.options import HTTPOptions, ProxyLocation
from serve_rt.errors import ConfigError, NoClusterError, ServeException
from serve_rt.exceptions import RayServeException
from tests.api import sample_app


@pytest.fixture(autouse=True)
def _no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("SERVE_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": ""}, RayServeException, "Application name must a non-empty string."),
        ({"target": sample_app.Model}, TypeError, "`serve.run` expects an `Application` returned by `Deployment.bind"),
        ({"route_prefix": "x"}, ValueError, "must start with '/'"),
        ({"route_prefix": "/x/"}, ValueError, "may not end with"),
        ({"route_prefix": "/{x}"}, ValueError, "wildcards"),
        ({"queue_timeout_s": 0}, ValueError, "queue_timeout_s"),
        ({"request_timeout_s": "1"}, TypeError, "request_timeout_s"),
        ({"max_body_bytes": 1.5}, TypeError, "max_body_bytes"),
    ],
)
def test_run(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        serve.run(**{"target": sample_app.app, **options})


def test_run_many_needs_targets() -> None:
    with pytest.raises(ValueError, match="No applications provided"):
        serve.run_many([])


def test_start() -> None:
    with pytest.raises(ValueError, match="http_options"):
        serve.start(http_port=1)
    with pytest.raises(TypeError, match="prot"):
        serve.start(prot=1)
    with pytest.raises(ConfigError, match="'port'"):
        serve.start(http_options={"prot": 1})
    with pytest.raises(ValueError):
        serve.start(proxy_location="Everywhere")


def test_http_options_become_flags_of_the_agent() -> None:
    """Checked by the agent's own command line, which takes them in."""
    given = HTTPOptions(port=0, root_path="/base", keep_alive_timeout_s=7, request_timeout_s=1.5)
    settings = _settings_of(_flags(given, ProxyLocation.EveryNode))
    assert settings.http_root_path == "/base" and settings.http_request_timeout_s == 1.5
    assert settings.http_keep_alive_timeout_s == 7.0 and settings.proxy

    plain = _settings_of(_flags(HTTPOptions(), ProxyLocation.HeadOnly))
    assert plain.proxy and plain.http_root_path == "" and plain.http_request_timeout_s is None
    assert plain.proxy_location is ProxyLocation.HeadOnly
    assert _settings_of(_flags(HTTPOptions(), None)).proxy_location is ProxyLocation.EveryNode
    assert not _settings_of(_flags(HTTPOptions(host=None), None)).proxy


def _settings_of(flags: list[str]) -> Settings:
    with start_verb.make_context("start", flags) as context:
        return settings_from(dict(context.params))


def test_without_a_cluster() -> None:
    assert serve.status().applications == {}
    serve.shutdown()
    for call in (lambda: serve.delete("x"), lambda: serve.get_app_handle("x")):
        with pytest.raises(ServeException, match="There is no Serve instance running"):
            call()
    with pytest.raises(NoClusterError):
        serve.get_app_handle("x")


def test_outside_of_replicas() -> None:
    with pytest.raises(RayServeException, match="within a deployment"):
        serve.get_replica_context()
    with pytest.raises(RayServeException, match="Please specify an application name"):
        serve.get_deployment_handle("x")
    assert serve.get_multiplexed_model_id() == ""
