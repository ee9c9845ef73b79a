"""Unpack a code zip next to its blob: checked first, complete or not there at all.

A zip comes from a deploy, so it is trusted to run as the user, but not to write outside its folder: absolute paths,
`..`, links and device files are refused, and sizes are counted while unpacking, not believed from the directory.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from serve_rt.errors import ConfigError

MAX_UNPACKED_BYTES = 512 << 20
MAX_FILES = 50_000
_CHUNK_BYTES = 1 << 20


def unpack(archive: Path, target: Path) -> Path:
    """`target` with the content of `archive`; at once when it is there already.

    *Errors*: ConfigError naming the entry that is refused.
    """
    if target.is_dir():
        return target
    staged = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        staged.mkdir(mode=0o700)
        _extract(archive, staged)
        os.rename(staged, target)
    except zipfile.BadZipFile as error:
        raise ConfigError(f"the code blob {archive.name} is not a zip file: {error}") from error
    except OSError:
        if not target.is_dir():  # another start of the same version was first
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def _extract(archive: Path, into: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        entries = source.infolist()
        if len(entries) > MAX_FILES:
            raise ConfigError(f"the code blob {archive.name} has {len(entries)} entries, at most {MAX_FILES} may be")
        left = MAX_UNPACKED_BYTES
        for entry in entries:
            path = into / checked_name(entry)
            if entry.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            left -= _copy(source, entry, path, left)


def checked_name(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The entry's relative path. *Errors*: ConfigError for links, devices and paths that lead outside."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ConfigError(f"the code zip holds {entry.filename!r}, which is a link or a device: refused")
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or not path.parts:
        raise ConfigError(f"the code zip holds {entry.filename!r}, which leads outside its folder: refused")
    return path


def _copy(source: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, limit_bytes: int) -> int:
    written = 0
    with source.open(entry) as reader, open(path, "xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > limit_bytes:
                raise ConfigError(f"the code zip unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB: refused")
            writer.write(chunk)
    return written
