"""Each example through `serve run` and HTTP: different inputs give different outputs."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.examples.served import Served, serve_run

needs_models = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the extra: pip install -e '.[examples]'"
)


def test_hello_and_the_pasted_curl() -> None:
    with serve_run("serve_rt.examples.hello:app") as served:
        assert served.get("/?name=Ada") == "Hello, Ada!"
        assert served.get("/") == "Hello, world!"
        assert _pasted(served.curl()) == "Hello, world!"


def _pasted(command: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


def test_stream_sends_each_word_as_it_comes() -> None:
    with serve_run("serve_rt.examples.stream:app") as served:
        text = served.get("/?text=one+two&delay_s=0.01")
        assert text == ('id: 0\ndata: {"word": "one"}\n\nid: 1\ndata: {"word": "two"}\n\nevent: end\ndata: {}\n\n')
        assert served.request("GET", "/?delay_s=soon")[0] == 400
        assert _first_event_s(served) < 1.0, "the first event does not wait for the last"


def test_tasks_count_and_the_actor_adds_up() -> None:
    with serve_run("serve_rt.examples.tasks:app") as served:
        assert served.post(["to be or not to be", "to see"]) == {"to": 3, "be": 2, "or": 1, "not": 1, "see": 1}
        assert served.post(["be"])["be"] == 3, "the actor has kept them"


def _first_event_s(served: Served) -> float:
    import http.client
    import time

    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    started = time.monotonic()
    connection.request("GET", "/?text=a+b+c&delay_s=2")
    answer = connection.getresponse()
    first = answer.read1(20)
    took_s = time.monotonic() - started
    assert first.startswith(b"id: 0")
    connection.close()
    return took_s


@needs_models
def test_embed_knows_paraphrases_from_strangers() -> None:
    with serve_run("serve_rt.examples.embed:app") as served:
        assert "POST" in served.get("/")
        cat, kitten, market = (
            served.post({"text": text})["embedding"]
            for text in (
                "a cat sleeps on the sofa",
                "a kitten is napping on the couch",
                "the stock market fell sharply today",
            )
        )
        assert len(cat) == 384 and _dot(cat, cat) == pytest.approx(1.0, abs=1e-3)
        assert _dot(cat, kitten) > 0.7
        assert _dot(cat, market) < 0.3

        texts = [f"sentence number {number}" for number in range(20)]
        with ThreadPoolExecutor(20) as pool:
            together = list(pool.map(lambda text: served.post({"text": text})["embedding"], texts))
        apart = served.post({"texts": texts})["embeddings"]
        assert all(_dot(one, other) > 0.999 for one, other in zip(together, apart, strict=True)), (
            "batching mixes nothing up"
        )

        status, body = served.request("POST", "/", b'{"words": 3}')
        assert status == 400 and "texts" in json.loads(body)["error"]


def _dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


@needs_models
def test_chat_answers_as_in_the_talk() -> None:
    with serve_run("serve_rt.examples.chat:app", "--num-gpus", "2") as served:

        def ask(user_input: str, history: list[str]) -> str:
            said: str = served.post(json.dumps({"user_input": user_input, "history": history}))["response"]
            return said

        first = ask("hello there", [])
        assert first and first == ask("hello there", []), "the same input, the same answer"
        assert first != ask("what is your name?", [])
        assert ask("and then?", ["hello there"]) != ask("and then?", ["what is your name?"]), "history counts"
