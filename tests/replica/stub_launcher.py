"""Stands in for the launcher: a process that is told what to be and becomes a replica.

Run as `python stub_launcher.py START.json`; the start dict's port must be chosen by the caller.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    from serve_rt.replica.main import run

    code = run(json.loads(Path(sys.argv[1]).read_text()))
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
