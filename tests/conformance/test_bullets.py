"""The list of bullets against the cases there are."""

from __future__ import annotations

import pytest

from tests.conformance.bullets import BULLETS, COMPLETE, cases, covers, section, without_case


def test_complete_sections_have_a_case_for_each_bullet(capsys: pytest.CaptureFixture[str]) -> None:
    missing = without_case()
    with capsys.disabled():
        covered = len(BULLETS) - len(missing)
        print(f"\nconformance: {covered} of {len(BULLETS)} bullets have a case; without one: {len(missing)}")
        print("".join(f"  {line}\n" for line in missing), end="")
    broken = [line for line in missing if section(line.split(" ", 1)[0]) in COMPLETE]
    assert not broken, f"declared complete, but without a case: {broken}"


def test_cases_name_bullets_that_exist() -> None:
    assert set(cases()) <= set(BULLETS)
    with pytest.raises(KeyError, match="9.9-99"):
        covers("9.9-99")


def test_complete_sections_exist() -> None:
    assert set(COMPLETE) <= {section(name) for name in BULLETS}
