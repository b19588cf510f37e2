"""How a study is getting on: a live table on a terminal; in a job's log a plain line now and then. Reads the store only.

A failure is said at once. What goes well is summed up, at most once in `log_gap_seconds`: ten thousand runs make no longer
a log than ten.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.store.layout import Store
from orchestrator.store.state import State
from orchestrator.store.watch import Seen, Watch

LOG_SHARE = 0.1  # a plain log speaks again after this share of the time that has passed
LOG_SECONDS = (10.0, 300.0)  # but not sooner, and not later, than this
FINAL = (State.DONE, State.FAILED, State.DIVERGED, State.STALLED, State.SKIPPED, State.BUDGET, State.STOPPED)


class Progress:
    """Counts, speed and time left of one study. `refresh` is cheap and may be called every second."""

    def __init__(self, store: Store, plan: dict[str, Any], slots: int, console: Console) -> None:
        self._facts = {facts["run_id"]: facts for facts in plan["runs"]}
        self._watch = Watch(store, self._facts)
        self._states: dict[str, State] = dict.fromkeys(self._facts, State.PLANNED)
        self._last: dict[str, dict[str, Any]] = {}
        self._study, self._slots, self._console = plan["study"], slots, console
        self._started = self._spoke = time.monotonic()
        self._newest = ""  # the run that was done last, for the next line of a plain log
        for seen in self._watch.look():  # what was there before this session is no news
            if seen.state is State.DONE:
                self._states[seen.folder.run_id] = seen.state
        self._estimate_at_start = self._left_estimate()
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()
        elif self._newest:
            self._say(self._line())

    def refresh(self) -> list[Seen]:
        """Look at the store and show what changed; returns it, for whoever else wants to know."""
        changed = self._watch.look()
        for seen in changed:
            self._note(seen)
        now = time.monotonic()
        if self._live:
            self._live.update(self._table())
        elif now - self._spoke >= log_gap_seconds(now - self._started):
            self._say(self._line())
        return changed

    @property
    def has_begun(self) -> bool:
        """Whether any run was seen at work: before that the cores are busy starting worker groups."""
        return bool(self._last)

    def counts(self) -> Counter[State]:
        """Runs by state."""
        return Counter(self._states.values())

    def _note(self, seen: Seen) -> None:
        run_id = seen.folder.run_id
        before, self._states[run_id] = self._states[run_id], seen.state
        self._last[run_id] = seen.last
        if seen.state is before:
            return
        label = self._facts[run_id]["label"]
        if seen.state is State.DONE:
            self._newest = label if self._facts[run_id]["phase"] == "import" else f"{label}: {_outcome(seen)}"
            if self._live:
                self._print(f"done     {self._newest}")
        elif seen.state in FINAL:
            reason = (seen.folder.failure() or {}).get("reason", "").splitlines()[:1]
            self._print(f"{str(seen.state).lower():8} {label}: {' '.join(reason)}")

    def _say(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._newest = ""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(f"{time.strftime('%H:%M:%S')} {text}"), soft_wrap=True)

    def _line(self) -> str:
        """How far the study is, in a line of a plain log."""
        counts = self.counts()
        states = ", ".join(f"{counts[s]} {str(s).lower()}" for s in (State.RUNNING, *FINAL[1:]) if counts[s])
        newest = f"; newest {self._newest}" if self._newest else ""
        return f"{self._summary()}{f' ({states})' if states else ''}{newest}"

    def _summary(self) -> str:
        counts = self.counts()
        done = sum(counts[state] for state in FINAL)
        speed = sum(self._last.get(r, {}).get("speed/images_per_second", 0.0) for r in self._running())
        return f"{done}/{len(self._states)} runs, {speed:,.0f} images/s, {_clock(self._eta_seconds())} left"

    def _running(self) -> list[str]:
        return [run_id for run_id, state in self._states.items() if state is State.RUNNING]

    def _left_estimate(self) -> float:
        """Planned seconds of what is not done, the started part of running ones taken off."""
        left = 0.0
        for run_id, state in self._states.items():
            facts = self._facts[run_id]
            share = self._last.get(run_id, {}).get("step", 0) / max(1, facts["steps"]) if state is State.RUNNING else 0.0
            left += 0.0 if state in FINAL else facts["placement"]["seconds"] * (1 - share)
        return left

    def _eta_seconds(self) -> float:
        """Planned time left, corrected by how the plan's estimate has held so far."""
        left = self._left_estimate()
        worked = self._estimate_at_start - left
        if worked < 5.0:
            return left / self._slots
        return left * (time.monotonic() - self._started) / worked

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("run", "progress", "step", "loss", "images/s"):
            table.add_column(name, justify="left" if name in ("run", "progress") else "right")
        for run_id in self._running():
            facts, last = self._facts[run_id], self._last.get(run_id, {})
            bar = ProgressBar(total=max(1, facts["steps"]), completed=last.get("step", 0), width=24)
            step = f"{last.get('step', 0):,}/{facts['steps']:,}"
            table.add_row(
                facts["label"], bar, step, f"{last.get('train/loss', 0):.3f}", f"{last.get('speed/images_per_second', 0):,.0f}"
            )
        states = ", ".join(f"{count} {str(state).lower()}" for state, count in sorted(self.counts().items()))
        return Group(Text(f"{self._study}: {self._summary()}", style="bold"), Text(states, style="dim"), table)


def log_gap_seconds(elapsed_seconds: float) -> float:
    """How long a plain log keeps quiet between two lines: longer the longer the study has run."""
    return min(max(LOG_SECONDS[0], LOG_SHARE * elapsed_seconds), LOG_SECONDS[1])


def _outcome(seen: Seen) -> str:
    """What a run came to: top-1, or the loss of what has no labels."""
    metrics = (seen.folder.result() or {}).get("metrics", {})
    if "eval/top1" in metrics:
        return f"top-1 {metrics['eval/top1']:.1%}"
    return f"loss {metrics.get('eval/loss', float('nan')):.3g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
