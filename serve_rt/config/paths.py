"""Where everything of one node lies on disk. The directory is 0700; every file with a secret is 0600."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from serve_rt.config.failpoints import reached
from serve_rt.errors import ConfigError

NOT_CODE = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "venv",
        "__pycache__",
        "node_modules",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
    }
)
"""Names of folders in a project that no program needs."""
MAX_SOCKET_PATH_BYTES = 100  # sun_path holds 108


@dataclass(frozen=True, slots=True)
class StateDir:
    path: Path

    @staticmethod
    def default() -> StateDir:
        """`$SERVE_STATE_DIR`, else `$XDG_STATE_HOME/serve-rt`, else `~/.local/state/serve-rt`."""
        named = os.environ.get("SERVE_STATE_DIR")
        if named:
            return StateDir(Path(named).absolute())
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return StateDir(Path(base).absolute() / "serve-rt")

    @staticmethod
    def is_one(folder: Path) -> bool:
        """Somebody's state dir, his token in it: it may lie in a folder of code, and must not be taken for code."""
        state = StateDir(folder)
        return state.token.is_file() and state.handles.is_dir()

    def create(self) -> StateDir:
        """Make the directory and its parts.

        *Errors*: ConfigError when it cannot be written or its path is too long for a Unix socket.
        """
        if len(os.fsencode(self.launcher_socket)) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"the state dir {self.path} is too long: sockets in it may have at most {MAX_SOCKET_PATH_BYTES} bytes; "
                "give a shorter one with --state-dir"
            )
        try:
            for part in (self.path, self.handles, self.logs, self.blobs, self.etcd, self.assignments):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self.path, 0o700)
            probe = self.path / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"the state dir {self.path} is not writable: {error.strerror}; see --state-dir"
            ) from error
        return self

    @property
    def lock(self) -> Path:
        """flock'ed by the agent for life."""
        return self.path / "lock"

    @property
    def token(self) -> Path:
        return self.path / "token"

    @property
    def node_id(self) -> Path:
        return self.path / "node-id"

    @property
    def address(self) -> Path:
        """host:port of this node's agent, for drivers and the CLI."""
        return self.path / "address"

    @property
    def launcher_socket(self) -> Path:
        return self.path / "launcher.sock"

    @property
    def handles(self) -> Path:
        """One JSON file per process this node runs."""
        return self.path / "handles"

    @property
    def assignments(self) -> Path:
        """The last assignments, so that a crashed replica restarts while etcd is away."""
        return self.path / "assignments"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def blobs(self) -> Path:
        """Blobs by digest, and `<digest>.d` for an unpacked code zip."""
        return self.path / "blobs"

    @property
    def etcd(self) -> Path:
        """The embedded etcd's data and socket."""
        return self.path / "etcd"

    @property
    def routes(self) -> Path:
        """Snapshot of the last RouteTable."""
        return self.path / "routes.json"

    @property
    def learned(self) -> Path:
        """Modules that constructors imported: the next launcher preloads them."""
        return self.path / "learned.json"

    @property
    def software(self) -> Path:
        """The version whose launcher runs here."""
        return self.path / "software"

    def accepting(self, worker: int) -> Path:
        """The pid of the proxy worker that accepts connections."""
        return self.path / f"proxy-{worker}.accepting"

    def replica_log(self, app: str, replica_id: str) -> Path:
        return self.logs / app / f"{replica_id.replace('#', '_')}.log"


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """`path` has either the old content or the new, also after a power cut."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    reached("write.begin")
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            reached("write.half")
            os.fsync(file.fileno())
        reached("write.synced")
        os.replace(staged, path)
        reached("write.renamed")
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
