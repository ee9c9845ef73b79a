"""`serve run` with a YAML file, and with --reload: real processes, a file that changes under it."""

from __future__ import annotations

import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

import pytest

from serve_rt.cli.reload import Watched
from tests.cli.test_run import _serve, state, until_ctrl_c
from tests.cluster.processes import eventually

__all__ = ["state"]
PROGRAM = """
import serve_rt as serve
from words import WORD

@serve.deployment
def say(request) -> str:
    return WORD + request.url.path

app = say.bind()
"""
CONFIG = """
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - {{name: one, route_prefix: /one, import_path: "program:app"}}
  - name: two
    route_prefix: /two
    import_path: program:app
    deployments: [{{name: say, num_replicas: 2}}]
"""


def answer(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answered:
            return str(answered.read().decode())
    except (OSError, urllib.error.URLError) as error:
        return str(error)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lines_until(running: subprocess.Popen[str], words: str, pipe: IO[str] | None = None) -> list[str]:
    pipe = pipe or running.stdout
    assert pipe is not None
    lines: list[str] = []
    while not lines or words not in lines[-1]:
        lines.append(pipe.readline())
        assert lines[-1], (lines, running.communicate())
    return lines


@pytest.mark.cluster
def test_the_applications_of_a_file_are_deployed_again_when_their_program_changes(state: Path) -> None:
    port, program = free_port(), state / "program"
    program.mkdir()
    (program / "program.py").write_text(PROGRAM)
    (program / "words.py").write_text("WORD = 'first'\n")
    (program / "app.yaml").write_text(CONFIG.format(port=port))
    running = _serve(state, "run", "app.yaml", "--reload", "--num-cpus", "2", cwd=program)
    url = f"http://127.0.0.1:{port}"
    with until_ctrl_c(running, state):
        ready = lines_until(running, "Watching")
        assert [line for line in ready if "is ready at" in line] == [
            f"Application '{name}' is ready at {url}/{name}/\n" for name in ("one", "two")
        ]
        assert answer(f"{url}/one") == "first/one" and answer(f"{url}/two/x") == "first/two/x"
        (program / "words.py").write_text("WORD = 'second'\n")
        eventually(lambda: answer(f"{url}/two") == "second/two", 30, "the changed program answers")
        lines_until(running, "Ctrl-C")
        (program / "words.py").write_text("WORD = 'third\n")
        told = "".join(lines_until(running, "The former version goes on.", running.stderr))
        assert "unterminated string" in told and answer(f"{url}/one") == "second/one"
        (program / "words.py").write_text("WORD = 'fourth!'\n")
        eventually(lambda: answer(f"{url}/one") == "fourth!/one", 30, "a mistake is made good")


def test_what_belongs_into_the_file_is_refused_beside_it(state: Path) -> None:
    (state / "app.yaml").write_text(CONFIG.format(port=0))
    for arguments in (("app.yaml", "--name", "x"), ("app.yaml", "a=b"), ("x:app", "--reload", "--non-blocking")):
        ended = _serve(state, "run", *arguments, cwd=state)
        _, told = ended.communicate(timeout=20)
        assert ended.returncode != 0 and ("go into the file" in told or "--blocking" in told)


def test_only_files_of_the_program_are_watched(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    watched = Watched(tmp_path)
    assert watched.changed() == []
    for folder in (".git", "__pycache__", "venv", "package"):
        (tmp_path / folder).mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    for name in (".git/x.py", "__pycache__/x.py", "venv/x.py", "data.bin", "package/x.py"):
        (tmp_path / name).write_text("x")
    (tmp_path / "a.py").unlink()
    assert watched.changed() == ["a.py", "package/x.py"] and watched.changed() == []
