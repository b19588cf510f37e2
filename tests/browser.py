"""Drives an installed headless Chromium through the DevTools protocol: what a page shows, logs and requests.

The browser is searched for on the PATH; nothing is downloaded. `open_page` yields a Page and ends the browser afterwards.
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
    """One tab. `problems`: errors and warnings of the console and the loader; `requests`: the requested URLs."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=START_SECONDS, suppress_origin=True)
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result; events that arrive meanwhile are recorded."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message.get("result", {})
            self._record(message)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; waits for promises."""
        reply = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(reply["exceptionDetails"])
        return reply["result"].get("value")

    def resize(self, width: int, height: int = 900) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def open(self, path: Path, ready: str = "document.readyState === 'complete'", seconds: float = 60.0) -> None:
        """Load a file and wait until the expression `ready` is true."""
        address = path.absolute().as_uri()
        self.send("Page.navigate", url=address)
        deadline = time.monotonic() + seconds
        is_loaded = f"location.href === {json.dumps(address)} && document.documentElement !== null"  # not the previous page
        while not self.run(f"{is_loaded} && ({ready})"):
            assert time.monotonic() < deadline, f"{path} did not become ready ({ready}); {self.problems}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"]))

    def close(self) -> None:
        self._socket.close()

    def _record(self, message: dict[str, Any]) -> None:
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
    """A tab of a new browser process with this profile folder."""
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
    """The WebSocket address of the first tab. The browser writes its port into the profile when it is ready."""
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
