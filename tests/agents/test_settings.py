"""The command line becomes Settings, or a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_rt.agents.settings import PortRange, Settings, parse_endpoints, parse_labels, parse_memory
from serve_rt.config.paths import StateDir
from serve_rt.errors import ConfigError

STATE = StateDir(Path("/nowhere"))


def test_amounts() -> None:
    assert [parse_memory(text) for text in ("8GiB", "500M", "123", "1.5k")] == [8 << 30, 500_000_000, 123, 1500]
    with pytest.raises(ConfigError, match="8 bananas"):
        parse_memory("8 bananas")


def test_labels() -> None:
    assert parse_labels(("a=1,b=2", "c=3")) == {"a": "1", "b": "2", "c": "3"}
    with pytest.raises(ConfigError, match="name=value"):
        parse_labels(("a",))


def test_endpoints() -> None:
    assert parse_endpoints("http://a:1,b:2") == ("a:1", "b:2")
    assert parse_endpoints("unix:/tmp/x") == ("unix:/tmp/x",)
    with pytest.raises(ConfigError, match="host:port"):
        parse_endpoints("localhost")


@pytest.mark.parametrize("text", ["1-2", "30000-20000", "x", "20000"])
def test_bad_port_ranges(text: str) -> None:
    with pytest.raises(ConfigError, match="--replica-ports"):
        PortRange.parse(text)


@pytest.mark.parametrize("changes", [{"host": "10.0.0.1"}, {"http_host": "0.0.0.0"}, {"etcd_listen": "0.0.0.0:2379"}])
def test_open_addresses_need_insecure(changes: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        Settings(STATE, **changes).check()  # type: ignore[arg-type]  # by name
    Settings(STATE, insecure=True, **changes).check()  # type: ignore[arg-type]  # by name


def test_a_wildcard_host_needs_an_address_for_others() -> None:
    with pytest.raises(ConfigError, match="--advertise-host"):
        Settings(STATE, host="0.0.0.0", insecure=True).check()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"http_root_path": "base"}, "--http-root-path 'base'"),
        ({"http_root_path": "/base/"}, "--http-root-path '/base/'"),
        ({"http_keep_alive_timeout_s": 0.0}, "--http-keep-alive-timeout-s 0 must"),
        ({"http_request_timeout_s": -1.0}, "--http-request-timeout-s -1 must"),
        ({"orphan_timeout_s": 0.0}, "--orphan-timeout-s 0 must"),
    ],
)
def test_http_settings_and_timeouts_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(STATE, **changes).check()


def test_the_defaults_hold() -> None:
    Settings(STATE).check()
