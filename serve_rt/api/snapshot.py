"""The driver's own code as one zip, so that replicas run the code that was deployed, whatever happens to the files.

What is taken: the files under the import root, as git lists them (so .gitignore holds), else by a walk that knows
.gitignore's simple patterns. The zip is the same, byte for byte, for the same files: its digest is part of a version.
Code that is installed (site-packages, serve_rt itself) and state dirs do not travel; when nothing else is used there
is no zip.
"""

from __future__ import annotations

import fnmatch
import io
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from serve_rt.config.paths import NOT_CODE, StateDir
from serve_rt.errors import ConfigError

log = logging.getLogger(__name__)

MAX_BYTES = 50 << 20
LARGE_BYTES = 1 << 20
"""Files from this size on stay where they are when there is too much."""
LEFT_OUT = ".serve-left-out"
"""Lists them with size and time in the zip: other weights are another version."""
_TIME = (1980, 1, 1, 0, 0, 0)
_MINE = Path(__file__).resolve().parents[1]
"""The package itself: installed on every node."""


def import_root() -> Path:
    """Where the driver's own modules come from: its script's folder, or the working directory."""
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    if script:
        spec = getattr(main, "__spec__", None)  # of `python -m package.module`, which imports from above the package
        folder = Path(script).resolve().parents[spec.name.count(".") if spec is not None else 0]
        if not (_is_installed(folder) or _is_installed(Path(script).resolve())):
            return folder
    return Path.cwd()


def uses_code_of(root: Path) -> bool:
    """Has this process imported anything from under `root` that is not installed?"""
    root = root.resolve()
    at_top = root == Path(root.anchor)  # everything is below it: only what lies right there counts
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name == "__main__":
            continue
        path = Path(file)
        if (path.parent == root if at_top else path.is_relative_to(root)) and not _is_installed(path):
            return True
    return False


def _is_installed(path: Path) -> bool:
    parts = path.parts
    if "site-packages" in parts or "dist-packages" in parts or not NOT_CODE.isdisjoint(parts):
        return True
    return (
        path.is_relative_to(_MINE) or path == Path(sys.prefix) / "bin" or path.is_relative_to(sys.base_prefix + "/lib")
    )


def snapshot(root: Path) -> bytes:
    """The zip of `root`; large files are left out where there is too much (serve_rt.replica.code_beside).

    *Errors*: ConfigError when there is more than MAX_BYTES in it without them, or it cannot be read.
    """
    root = root.resolve()
    if root == Path(root.anchor):
        raise ConfigError(f"{root} cannot travel to the replicas: run from the code's folder, or name it (--app-dir).")
    try:
        sizes = {name: (root / name).stat().st_size for name in sorted(_code(set(_files(root)), root))}
    except OSError as error:
        raise ConfigError(f"the code under {root} cannot be read: {error}") from error
    left_out = _left_out(sizes)
    files = [name for name in sizes if name not in left_out]
    _check_size(root, {name: sizes[name] for name in files})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in files:
            path = root / name
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if os.access(path, os.X_OK) else 0o100644) << 16
            archive.writestr(entry, path.read_bytes())
        if left_out:
            archive.writestr(zipfile.ZipInfo(LEFT_OUT, _TIME), _described(root, left_out))
    return buffer.getvalue()


def _left_out(sizes: Mapping[str, int]) -> list[str]:
    """The largest files, as many as are too much."""
    total, left_out = sum(sizes.values()), []
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if total <= MAX_BYTES or sizes[name] < LARGE_BYTES:
            break
        total -= sizes[name]
        left_out.append(name)
    return left_out


def _described(root: Path, left_out: list[str]) -> str:
    log.warning(
        "%s stay%s in %s: the code is more than %d MiB with them. Replicas on this machine find them there, on others "
        "they must be put where the program looks for them.",
        ", ".join(left_out[:3]) + (" and others" if len(left_out) > 3 else ""),
        "s" if len(left_out) == 1 else "",
        root,
        MAX_BYTES >> 20,
    )
    stats = [(name, (root / name).stat()) for name in sorted(left_out)]
    return "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats)


def _check_size(root: Path, sizes: Mapping[str, int]) -> None:
    total = sum(sizes.values())
    if total <= MAX_BYTES:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    shown = ", ".join(f"{name} ({sizes[name] / (1 << 20):.1f} MiB)" for name in largest)
    raise ConfigError(
        f"the code under {root} is {total / (1 << 20):.1f} MiB, more than the limit of {MAX_BYTES >> 20} MiB; the "
        f"largest: {shown}. Name what is not code in .gitignore, or run from a smaller folder (--app-dir)."
    )


def _code(names: set[str], root: Path) -> set[str]:
    """`names` without state dirs: what runs here writes them while we read, and the cluster's token is in there."""
    token = StateDir(root).token.name
    folders = {Path(name).parent for name in names if Path(name).name == token}
    ours = {folder for folder in folders if StateDir.is_one(root / folder)}
    return {name for name in names if not ours or ours.isdisjoint(Path(name).parents)}


def _files(root: Path) -> Iterator[str]:
    listed = _git_files(root)
    for name in listed if listed is not None else _walk(root):
        path = root / name
        if path.is_dir():  # git lists a link to a folder as a file
            if path.resolve().is_relative_to(root):
                yield from (f"{name}/{inner}" for inner in _walk(path))
        elif path.is_file():
            yield name


def _git_files(root: Path) -> list[str] | None:
    """What git would know under `root`; None when it is not a checkout or there is no git."""
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return None
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    names = (os.fsdecode(name) for name in listed.stdout.split(b"\0") if name)
    return [name for name in names if NOT_CODE.isdisjoint(Path(name).parts)]


def _walk(root: Path) -> Iterator[str]:
    patterns = _ignored(root)
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = sorted(
            name for name in folders if name not in NOT_CODE and not _matches(patterns, here / name, is_dir=True)
        )
        for name in sorted(files):
            if not _matches(patterns, here / name, is_dir=False) and not name.endswith(".pyc"):
                yield (here / name).as_posix()


def _ignored(root: Path) -> list[str]:
    try:
        lines = (root / ".gitignore").read_text().splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _matches(patterns: list[str], path: Path, *, is_dir: bool) -> bool:
    """.gitignore's simple patterns: names, globs, `folder/`, a leading `/`, and `!` to take back."""
    ignored = False
    for pattern in patterns:
        takes_back, bare = pattern.startswith("!"), pattern.lstrip("!")
        if bare.endswith("/") and not is_dir:
            continue
        bare = bare.rstrip("/")
        text = path.as_posix() if "/" in bare else path.name
        if fnmatch.fnmatch(text, bare.lstrip("/")):
            ignored = not takes_back
    return ignored
