"""Events of a study to a webhook: one small POST each, from a thread. A webhook that fails never affects the study.

    {"study": "scaling", "event": "failed", "text": "...", "run": "...", "runs": 1, "reason": "...", "counts": {"done": 3}}

Never blocks the study and never raises. Every text is redacted; only this module reads the address.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable
from typing import Any

from orchestrator.secrets import expand_environment, redact
from orchestrator.spec.integrations import Notify
from orchestrator.store.state import State
from orchestrator.store.watch import RunChange

REPLY_SECONDS = 5.0
WAITS_SECONDS = (1.0, 4.0, 16.0)  # between the attempts at one event
MAX_WAITING = 100  # events; while the webhook does not respond, later ones are dropped
REASON_CHARACTERS = 300
EVENT_OF = {State.FAILED: "failed", State.DIVERGED: "failed", State.STALLED: "stalled"}

log = logging.getLogger(__name__)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Events are not sent on to another address."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


class Notifier:
    """Posts the events that a study subscribes to. Without a `notify` section it does nothing."""

    def __init__(self, study: str, notify: Notify | None, names: Iterable[str] = ()) -> None:
        self._study, self._notify, self._names = study, notify, tuple(names)
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def send_failures(self, changes: Iterable[RunChange], labels: dict[str, str], counts: Counter[State]) -> None:
        """Runs that failed or stalled since the last scan: one event per kind."""
        by_event: dict[str, list[RunChange]] = {}
        for change in changes:
            if event := EVENT_OF.get(change.state):
                by_event.setdefault(event, []).append(change)
        for event, failed in by_event.items():
            failure = failed[0].folder.failure()
            reason = failure.reason if failure else ""
            self.send(event, counts, run=labels[failed[0].folder.run_id], runs=len(failed), reason=reason)

    def send(self, event: str, counts: Counter[State], *, run: str = "", runs: int = 0, reason: str = "") -> None:
        """Queue one event, where the study subscribes to it. Returns at once."""
        if self._notify is None or event not in self._notify.on:
            return
        states = {str(state).lower(): number for state, number in sorted(counts.items()) if number}
        first_line = str(redact(reason.partition("\n")[0], self._names))[:REASON_CHARACTERS]
        others = f" and {runs - 1} more" if runs > 1 else ""
        headline = ": ".join(part for part in (f"{self._study} {event}", run + others, first_line) if part)
        text = f"{headline} ({', '.join(f'{number} {state}' for state, number in states.items())})"  # what chat services show
        body: dict[str, Any] = {"study": self._study, "event": event, "text": text, "run": run, "runs": runs}
        body |= {"reason": first_line, "counts": states}
        try:
            self._waiting.put_nowait(body)
        except queue.Full:
            log.warning("the webhook does not respond: event %s is dropped", event)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
            self._thread.start()

    def close(self, seconds: float = 10.0) -> None:
        """Wait up to `seconds` until all events are sent; the thread ends with the process."""
        if self._thread is None:
            return
        deadline = time.monotonic() + seconds
        try:
            self._waiting.put(None, timeout=seconds)
            self._thread.join(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Full:
            pass
        if self._thread.is_alive():
            log.warning("the webhook does not respond: the remaining events are dropped")

    def _work(self) -> None:
        while (body := self._waiting.get()) is not None:
            try:
                self._deliver(json.dumps(body).encode())
            except Exception as error:  # the study continues. The error's text may contain the address
                log.warning("the webhook did not receive the event %s: %s", body["event"], type(error).__name__)

    def _deliver(self, data: bytes) -> None:
        """Post, with retries where the server may recover. Raises what the last attempt raised."""
        for wait in (*WAITS_SECONDS, None):
            try:
                self._post(data)
            except urllib.error.HTTPError as error:
                if wait is None or (error.code < 500 and error.code != 429):
                    raise
            except OSError:
                if wait is None:
                    raise
            else:
                return
            time.sleep(wait)

    def _post(self, data: bytes) -> None:
        assert self._notify is not None
        address = expand_environment(self._notify.webhook)
        if not address.startswith(("https://", "http://")):
            raise ValueError("not an http address")
        request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json"}, method="POST")
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=REPLY_SECONDS):
            pass
