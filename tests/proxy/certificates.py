"""Self-signed certificates for 127.0.0.1, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    certfile: str
    keyfile: str


def make_pair(folder: Path, name: str, *, password: str = "") -> Pair:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make certificates with")
    pair = Pair(str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-out", pair.certfile]
    command += ["-keyout", pair.keyfile, *(["-passout", f"pass:{password}"] if password else ["-noenc"])]
    subprocess.run(command, check=True, capture_output=True, timeout=20)
    return pair
