"""The cluster's secret: 32 random bytes in a 0600 file of the state dir, never in argv or the environment."""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from serve_rt.errors import ConfigError

TOKEN_BYTES = 32


@dataclass(frozen=True, repr=False)
class ClusterToken:
    secret: bytes

    @staticmethod
    def create(path: Path) -> ClusterToken:
        """The token in `path`, made now if the file does not exist; safe when several processes do it at once."""
        staged = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(TOKEN_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(staged, path)  # fails when another process was first: then its token is the token
        except FileExistsError:
            pass
        finally:
            os.unlink(staged)
        return ClusterToken.read(path)

    @staticmethod
    def read(path: Path) -> ClusterToken:
        """*Errors*: ConfigError when the file is missing, readable by others, or not 64 hex digits."""
        try:
            mode = path.stat().st_mode
            text = path.read_text().strip()
        except OSError as error:
            raise ConfigError(f"cannot read the cluster token {path}: {error.strerror}") from error
        if mode & 0o077:
            raise ConfigError(
                f"the cluster token {path} can be read by others (mode {mode & 0o777:o}): chmod 600 {path}"
            )
        try:
            secret = bytes.fromhex(text)
        except ValueError:
            secret = b""
        if len(secret) != TOKEN_BYTES:
            raise ConfigError(f"the cluster token {path} is damaged: expected {2 * TOKEN_BYTES} hex digits")
        return ClusterToken(secret)

    def matches(self, shown: bytes) -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(self.secret, shown)

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """gRPC metadata that shows the token."""
        return ((METADATA_KEY, self.secret),)

    def __repr__(self) -> str:
        return "ClusterToken(…)"


METADATA_KEY = "serve-token-bin"
