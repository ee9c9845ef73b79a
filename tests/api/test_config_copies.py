"""Ray's configuration objects are pydantic models: what programs call on them."""

from __future__ import annotations

import logging

import pytest

import serve_rt as serve
from serve_rt.api.own_cluster import open_to_others
from serve_rt.config import AutoscalingConfig, HTTPOptions
from serve_rt.errors import ConfigError
from serve_rt.schema import LoggingConfig


class Model:
    pass


def test_a_copy_with_other_values() -> None:
    quick = AutoscalingConfig(max_replicas=1, upscale_delay_s=0)
    wide = quick.copy(update={"min_replicas": 2}).model_copy(update={"max_replicas": 64})  # between them: 2..1
    assert (wide.min_replicas, wide.max_replicas, wide.upscale_delay_s) == (2, 64, 0) and quick.max_replicas == 1
    deployed = serve.deployment(autoscaling_config=wide)(Model)
    assert deployed.given["autoscaling_config"] == wide


def test_a_wrong_value_is_refused_where_the_copy_is_used() -> None:
    wrong = AutoscalingConfig().copy(update={"min_replicas": 2})
    with pytest.raises(ValueError, match=r"max_replicas \(1\) must be >= min_replicas \(2\)"):
        serve.deployment(autoscaling_config=wrong)
    with pytest.raises(ConfigError, match="max_replicas"):
        AutoscalingConfig().copy(update={"max_replica": 2})


def test_as_a_dict_and_back() -> None:
    config = LoggingConfig(encoding="JSON")
    assert config.dict(exclude_unset=True) == {"encoding": "JSON"}
    assert LoggingConfig.parse_obj(config.model_dump()) == config == LoggingConfig(**config.dict(exclude_none=True))
    assert HTTPOptions.model_validate({"port": 1}).port == 1
    with pytest.raises(ConfigError, match="Did you mean 'port'"):
        HTTPOptions.parse_obj({"prt": 1})


def test_an_address_the_program_names_may_be_reached_by_others_and_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert open_to_others("127.0.0.1", https=False) == open_to_others(None, https=False) == []
        assert open_to_others("0.0.0.0", https=True) == [] and not caplog.records
        assert open_to_others("0.0.0.0", https=False) == ["--insecure"]
    assert "0.0.0.0 can be reached from other machines" in caplog.text
