"""What the examples do besides serving: bodies are checked, the tiny model is built once."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_rt.examples.embed import MAX_TEXTS, texts_of
from serve_rt.examples.tiny_blenderbot import locate


@pytest.mark.parametrize("body", [None, [], {}, {"text": 3}, {"texts": []}, {"texts": ["a", 1]}, {"texts": "abc"}])
def test_a_wrong_body_is_told(body: object) -> None:
    with pytest.raises(ValueError, match="texts"):
        texts_of(body)


def test_texts_are_limited_in_number() -> None:
    assert texts_of({"texts": ["a"] * MAX_TEXTS}) and texts_of({"text": "a"}) == ["a"]
    with pytest.raises(ValueError, match=str(MAX_TEXTS)):
        texts_of({"texts": ["a"] * (MAX_TEXTS + 1)})


def test_other_models_go_by_their_name() -> None:
    assert locate("facebook/blenderbot-400M-distill") == "facebook/blenderbot-400M-distill"


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra: examples")
def test_replicas_that_start_together_build_one_tiny_model(tmp_path: Path) -> None:
    code = "from serve_rt.examples.tiny_blenderbot import locate; print(locate('tiny-blenderbot'))"
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        for _ in range(2)
    ]
    outputs = [child.communicate(timeout=100) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    [path] = {output.splitlines()[-1] for output, _ in outputs}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(path))
    assert os.listdir(tmp_path / "serve-rt") == [Path(path).name], "no half-built folder is left"
