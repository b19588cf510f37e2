"""A headless Chromium that is installed here, driven through its own protocol: what a page shows, says and would load.

Found on the PATH; nothing is downloaded. `open_page` yields a Page; the browser and its profile are gone afterwards.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions")
START_SECONDS = 60.0


def find() -> str | None:
    """The browser's path, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. `problems`: what the console and the loader complained about; `requests`: addresses asked for."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=START_SECONDS, suppress_origin=True)
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come meanwhile are noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message.get("result", {})
            self._note(message)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def resize(self, width: int, height: int = 900) -> None:
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def open(self, path: Path, ready: str = "document.readyState === 'complete'", seconds: float = 60.0) -> None:
        """Load a file and wait until the expression `ready` is true."""
        address = path.absolute().as_uri()
        self.ask("Page.navigate", url=address)
        deadline = time.monotonic() + seconds
        there = f"location.href === {json.dumps(address)} && document.documentElement !== null"  # not the page before
        while not self.run(f"{there} && ({ready})"):
            assert time.monotonic() < deadline, f"{path} never became ready ({ready}); {self.problems}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        """The whole page, however long, as PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"]))

    def close(self) -> None:
        self._socket.close()

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.problems.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.problems.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """A tab of a browser of its own, whose profile is the folder given."""
    command = [find() or NAMES[0], *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        page = Page(_address(profile, browser))
        try:
            yield page
        finally:
            page.close()
    finally:
        browser.terminate()
        browser.wait(timeout=30)


def _address(profile: Path, browser: subprocess.Popen[bytes]) -> str:
    """Where the first tab listens: the browser writes its port into its profile once it is up."""
    import urllib.request

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and browser.poll() is None:
        if (lines := _lines(profile / "DevToolsActivePort")) and len(lines) == 2:
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=START_SECONDS) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise RuntimeError(f"the browser did not start (exit {browser.poll()})")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
