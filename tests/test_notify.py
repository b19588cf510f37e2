"""Webhooks with real servers on loopback: one that answers, one that recovers, one that hangs. A study never waits for one."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError
from records import run_record

from orchestrator.monitor import notify
from orchestrator.monitor.notify import Notifier
from orchestrator.spec.integrations import Notify, Tracking
from orchestrator.store.layout import Store
from orchestrator.store.state import State
from orchestrator.store.watch import Watch

CANARY = "canary-5f3a9c"
HOOK = Notify(webhook="${env:VITSCALE_TEST_HOOK}")


class Receiver(ThreadingHTTPServer):
    """Records posted bodies. Answers with the given statuses in turn, then always with the last one; 0 means no answer."""

    daemon_threads = True

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.bodies, self.paths, self.tries = list(statuses), [], [], 0
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def arrived(self, number: int) -> list[dict]:
        deadline = time.monotonic() + 10
        while len(self.bodies) < number and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.bodies


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.tries += 1
        status = server.statuses.pop(0) if len(server.statuses) > 1 else server.statuses[0]
        if status == 0:
            time.sleep(60)
        if status == 200:
            server.bodies.append(body)
            server.paths.append(self.path)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def receive(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    started: list[Receiver] = []

    def start(*statuses: int) -> Receiver:
        started.append(Receiver(*statuses))
        monkeypatch.setenv("VITSCALE_TEST_HOOK", f"http://127.0.0.1:{started[-1].server_port}/{CANARY}")
        monkeypatch.setattr(notify, "WAITS_SECONDS", (0.05, 0.1))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def counts() -> Counter[State]:
    return Counter({State.DONE: 3, State.FAILED: 1})


def test_one_post_per_event_with_its_cause_and_no_secret(receive, tmp_path: Path) -> None:
    server, store = receive(200), Store(tmp_path)
    watch, sender = Watch(store, ["a", "b", "c"]), Notifier("toy", HOOK, ("VITSCALE_TEST_HOOK",))
    for name, state in (("a", State.FAILED), ("b", State.DIVERGED), ("c", State.STALLED)):
        store.run(name).begin(run_record())
        store.run(name).fail(state, f"cannot reach http://127.0.0.1:{server.server_port}/{CANARY}\nTraceback")
    sender.send_failures(watch.scan(), {"a": "ViT a", "b": "ViT b", "c": "ViT c"}, counts())
    sender.send_failures(watch.scan(), {}, counts())
    sender.send("done", counts())
    sender.close()
    failed, stalled, done = server.arrived(3)
    assert server.paths == [f"/{CANARY}"] * 3
    assert (failed["event"], failed["run"], failed["runs"], failed["counts"]) == (
        "failed",
        "ViT a",
        2,
        {"done": 3, "failed": 1},
    )
    assert failed["text"].startswith("toy failed: ViT a and 1 more: cannot reach ${env:VITSCALE_TEST_HOOK}")
    assert (stalled["event"], stalled["runs"], done["event"], done["run"]) == ("stalled", 1, "done", "")
    assert CANARY not in json.dumps(server.bodies)
    assert "Traceback" not in json.dumps(server.bodies)


def test_only_configured_events_are_sent(receive) -> None:
    server = receive(200)
    sender = Notifier("toy", Notify(webhook="${env:VITSCALE_TEST_HOOK}", on=("budget",)))
    sender.send("done", counts())
    sender.send("budget", counts(), reason="limit of 3 GPU-hours")
    sender.close()
    assert [body["event"] for body in server.arrived(1)] == ["budget"]
    Notifier("toy", None).send("done", counts())


@pytest.mark.parametrize(
    ("statuses", "tries", "received"), [((500, 429, 200), 3, 1), ((503,), 3, 0), ((404,), 1, 0), ((302,), 1, 0)]
)
def test_only_temporary_errors_are_retried(receive, statuses: tuple[int, ...], tries: int, received: int) -> None:
    server = receive(*statuses)
    sender = Notifier("toy", HOOK)
    sender.send("done", counts())
    sender.close()
    assert (server.tries, len(server.bodies)) == (tries, received)


def test_a_server_that_hangs_does_not_delay_the_study(receive, caplog: pytest.LogCaptureFixture) -> None:
    receive(0)
    sender, began = Notifier("toy", HOOK), time.monotonic()
    for _ in range(notify.MAX_WAITING + 20):
        sender.send("failed", counts())
    assert time.monotonic() - began < 0.5
    sender.close(seconds=0.5)
    assert time.monotonic() - began < 2
    assert "does not respond" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:1/canary-5f3a9c", "file:///etc/canary-5f3a9c"])
def test_a_wrong_address_is_logged(address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(notify, "WAITS_SECONDS", ())
    monkeypatch.setenv("VITSCALE_TEST_HOOK", address)
    sender = Notifier("toy", HOOK)
    sender.send("done", counts())
    sender.close()
    assert "the webhook did not receive the event done" in caplog.text
    assert CANARY not in caplog.text


def test_addresses_that_are_refused_in_a_study() -> None:
    for webhook in ("https://hooks.example/T0/B0/abc", ""):
        with pytest.raises(ValidationError, match="address is a secret"):
            Notify(webhook=webhook)
    for mlflow in ("mlruns", "./mlruns", "file:///shared/mlruns", "/shared/mlruns", "databricks"):
        with pytest.raises(ValidationError, match="never a folder"):
            Tracking(mlflow=mlflow)
    with pytest.raises(ValidationError, match="no password in a study"):
        Tracking(mlflow="https://me:secret@host/")
    for mlflow in (
        "auto",
        "sqlite:////x/y.db",
        "http://127.0.0.1:5000",
        "${env:MLFLOW}",
        "postgresql+psycopg2://${env:DB}@h/m",
    ):
        assert Tracking(mlflow=mlflow).mlflow == mlflow
