"""A code zip may not write outside its folder, nor fill the disk."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from serve_rt.agents import code_zip
from serve_rt.errors import ConfigError


def make(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def test_a_zip_is_unpacked_once(tmp_path: Path) -> None:
    archive = make(tmp_path / "a", ("pkg/__init__.py", b"x = 1\n"), ("main.py", b"import pkg\n"))
    target = code_zip.unpack(archive, tmp_path / "a.d")
    assert (target / "pkg/__init__.py").read_bytes() == b"x = 1\n"
    (target / "mark").touch()
    assert (code_zip.unpack(archive, tmp_path / "a.d") / "mark").exists()


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("evil")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", link()])
def test_what_leads_outside_is_refused(tmp_path: Path, name: str | zipfile.ZipInfo) -> None:
    archive = make(tmp_path / "a", (name, b"/etc/passwd"))
    with pytest.raises(ConfigError, match="evil"):
        code_zip.unpack(archive, tmp_path / "a.d")
    assert [p.name for p in tmp_path.iterdir()] == ["a"], "nothing is left of the attempt"


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_zip, "MAX_UNPACKED_BYTES", 1000)
    archive = make(tmp_path / "a", ("zeros", bytes(5000)))
    with pytest.raises(ConfigError, match="unpacks to more"):
        code_zip.unpack(archive, tmp_path / "a.d")


def test_not_a_zip_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no zip")
    with pytest.raises(ConfigError, match="not a zip"):
        code_zip.unpack(tmp_path / "a", tmp_path / "a.d")
