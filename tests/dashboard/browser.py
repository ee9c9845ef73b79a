"""A real Chromium without a window, driven over its DevTools protocol: go to a page, read it, click, hear its errors.

https://chromedevtools.github.io/devtools-protocol/ (Page, Runtime). One tab is enough, `websockets` is at hand.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.cluster.processes import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
START_S = 30.0
ANSWER_S = 20.0
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--no-first-run", "--window-size=1280,1000",
    "--remote-debugging-port=0",
)  # fmt: skip


class Tab:
    """*Resources*: `browser` opens and closes it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.errors: list[str] = []
        """Exceptions of the page, what it logged as an error, and what it could not load."""
        for domain in ("Page", "Runtime", "Log"):
            self._do(f"{domain}.enable")

    def go(self, url: str) -> None:
        self._do("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON. *Errors*: AssertionError with the page's exception."""
        result = self._do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self) -> str:
        return str(self.run("document.body?.innerText ?? ''"))

    def click(self, link: str) -> None:
        """The first link whose text begins so, once it is there: pressed with the mouse, where it is on the screen."""
        find = f"[...document.links].find((one) => one.textContent.startsWith({json.dumps(link)}))"
        place = f"(() => {{ const at = {find}?.getBoundingClientRect(); return at && [at.x + 4, at.y + 4]; }})()"
        x, y = eventually(lambda: self.run(place), ANSWER_S, f"the link {link!r}")
        for kind in ("mousePressed", "mouseReleased"):
            self._do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _do(self, method: str, **params: Any) -> Any:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            said = json.loads(self._connection.recv(ANSWER_S))
            if said.get("id") == self._number:
                assert "error" not in said, said["error"]
                return said["result"]
            self._note(said)

    def _note(self, event: dict[str, Any]) -> None:
        name, params = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif name == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


@contextmanager
def browser() -> Iterator[Tab]:
    """A browser with a profile of its own; it and its processes are gone afterwards."""
    assert CHROMIUM is not None
    folder = Path(tempfile.mkdtemp(prefix="srt-browser-"))
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = eventually(lambda: _port(folder), START_S, "the browser listens")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=ANSWER_S) as answer:
            pages = [target for target in json.load(answer) if target["type"] == "page"]
        with connect(pages[0]["webSocketDebuggerUrl"], max_size=None, compression=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _port(folder: Path) -> int | None:
    """Chromium writes it when it listens."""
    try:
        found = re.match(r"\d+", (folder / "DevToolsActivePort").read_text())
    except OSError:
        return None
    return int(found[0]) if found else None
