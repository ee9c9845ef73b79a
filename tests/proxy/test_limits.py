"""The table of limits, and the arithmetic of slow bodies."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_rt.errors import ConfigError
from serve_rt.proxy.body_meter import BodyMeter
from serve_rt.proxy.limits import Limits, checked, parse_limits

README = Path(__file__).resolve().parents[2] / "proxy" / "README.md"


def test_every_row_can_be_set() -> None:
    for row in dataclasses.fields(Limits):
        [(name, value)] = parse_limits([f"{row.name}=7"]).items()
        assert name == row.name and value == 7 and type(value) is type(row.default)
        assert getattr(Limits(**{name: value}), name) == 7


def test_every_row_is_in_the_readme_with_its_default() -> None:
    text = README.read_text()
    for row in dataclasses.fields(Limits):
        default = f"{row.default:g}" if isinstance(row.default, float) else f"{row.default:,}"
        assert f"| `{row.name}` | {default} |" in text, row.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("url_byte=1", "did you mean 'url_bytes'"),
        ("colour=1", "there are url_bytes"),
        ("url_bytes", "not of the form"),
        ("url_bytes=big", "not of the form"),
        ("url_bytes=0", "more than 0"),
        ("url_bytes=1.5", "whole number"),
        ("url_bytes=nan", "not a number"),
        ("head_timeout_s=-1", "more than 0"),
        ("head_timeout_s=inf", "not a number"),
    ],
)
def test_what_cannot_be_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_limits([text])


def test_values_of_a_program_are_looked_at_too() -> None:
    with pytest.raises(ConfigError, match="not a number"):
        checked({"url_bytes": "8192"})
    assert checked({"body_bytes": 0, "drain_s": 0}) == {"body_bytes": 0, "drain_s": 0.0}


@given(st.lists(st.tuples(st.floats(0.001, 3.0), st.integers(0, 5000)), max_size=200))
def test_no_client_takes_longer_than_its_rate_allows(pieces: list[tuple[float, int]]) -> None:
    meter = BodyMeter(grace_s=10.0, bytes_per_s=1000)
    waited_s, got = 0.0, 0
    for wait_s, size in pieces:
        if wait_s > meter.left_s:
            return  # it was told 408
        meter.took(wait_s, size)
        waited_s, got = waited_s + wait_s, got + size
        assert 0 <= meter.left_s <= 10.0
        assert waited_s <= 10.0 + got / 1000 + 1e-6
