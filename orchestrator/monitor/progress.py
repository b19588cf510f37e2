"""The progress of a study: a live table on a terminal; in a job's log a plain line at intervals. Reads only the store.

A failure is printed at once. The rest is summed up at most once in `log_gap_seconds`, so that the log of ten thousand runs is
no longer than the log of ten.
"""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.plan.records import PlanFile
from orchestrator.store.curve import Entry
from orchestrator.store.eta import eta_seconds, planned_seconds_left
from orchestrator.store.layout import Store
from orchestrator.store.state import State
from orchestrator.store.watch import RunChange, Watch
from orchestrator.units import duration

LOG_SHARE = 0.1  # a plain log prints again after this share of the time that has passed
LOG_SECONDS = (10.0, 300.0)  # but not sooner, and not later, than this
FINAL = (State.DONE, State.FAILED, State.DIVERGED, State.STALLED, State.SKIPPED, State.BUDGET, State.STOPPED)


class Progress:
    """Counts, speed and time left of one study. `refresh` is cheap and may be called every second."""

    def __init__(self, store: Store, plan: PlanFile, console: Console) -> None:
        self._facts = {facts.run_id: facts for facts in plan.runs}
        self._watch = Watch(store, self._facts)
        self._states: dict[str, State] = dict.fromkeys(self._facts, State.PLANNED)
        self._last: dict[str, Entry] = {}
        self._study, self._console = plan.study, console
        self._started = self._printed = time.monotonic()
        self._first_step: tuple[float, float] | None = None  # time of the first step seen, planned seconds left then
        self._newest = ""  # the run that finished last, for the next line of a plain log
        for change in self._watch.scan():  # results of earlier sessions are not reported
            if change.state is State.DONE:
                self._states[change.folder.run_id] = change.state
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()
        elif self._newest:
            self._print_line()

    def refresh(self) -> list[RunChange]:
        """Look at the store and show what changed; returns the changes."""
        changes = self._watch.scan()
        for change in changes:
            self._note(change)
        now = time.monotonic()
        if self._live:
            self._live.update(self._table())
        elif now - self._printed >= log_gap_seconds(now - self._started):
            self._print_line()
        return changes

    @property
    def has_begun(self) -> bool:
        """Whether any run has logged metrics: before that the cores are busy starting worker groups."""
        return bool(self._last)

    def counts(self) -> Counter[State]:
        """Runs by state."""
        return Counter(self._states.values())

    def _note(self, change: RunChange) -> None:
        run_id = change.folder.run_id
        before, self._states[run_id] = self._states[run_id], change.state
        self._last[run_id] = change.last
        if self._first_step is None and change.last.get("step"):
            self._first_step = (time.monotonic(), self._planned_left())
        if change.state is before:
            return
        facts = self._facts[run_id]
        if change.state is State.DONE:
            self._newest = facts.label if facts.phase == "import" else f"{facts.label}: {_outcome(change)}"
            if self._live:
                self._print(f"done     {self._newest}")
        elif change.state in FINAL and change.state is not State.STOPPED:  # stops are summed up at the end
            failure = change.folder.failure()
            reason = failure.reason.partition("\n")[0] if failure else ""
            self._print(f"{str(change.state).lower():8} {facts.label}: {reason}")

    def _print_line(self) -> None:
        text = self._line()
        self._printed = time.monotonic()
        self._newest = ""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(f"{time.strftime('%H:%M:%S')} {text}"), soft_wrap=True)

    def _line(self) -> str:
        """How far the study is, in one line of a plain log."""
        counts = self.counts()
        states = ", ".join(f"{counts[s]} {str(s).lower()}" for s in (State.RUNNING, *FINAL[1:]) if counts[s])
        newest = f"; newest {self._newest}" if self._newest else ""
        return f"{self._summary()}{f' ({states})' if states else ''}{newest}"

    def _summary(self) -> str:
        counts = self.counts()
        finished = sum(counts[state] for state in FINAL)
        speed = sum(self._last.get(r, {}).get("speed/images_per_second", 0.0) for r in self._running())
        eta = self._eta_seconds()
        parts = [f"{finished}/{len(self._states)} runs"]
        parts += [f"{speed:,.0f} images/s"] if speed else []
        parts += [f"{duration(eta)} left"] if eta else []
        return ", ".join(parts)

    def _running(self) -> list[str]:
        return [run_id for run_id, state in self._states.items() if state is State.RUNNING]

    def _planned_left(self) -> float:
        """Planned seconds of what is not done, without the done part of running runs."""
        return planned_seconds_left(
            (self._facts[run_id], state, int(self._last.get(run_id, {}).get("step", 0)))
            for run_id, state in self._states.items()
        )

    def _eta_seconds(self) -> float | None:
        """Seconds left at the speed since the first step. None while it is too early for an estimate."""
        if self._first_step is None:
            return None
        began, planned_then = self._first_step
        left = self._planned_left()
        return eta_seconds(time.monotonic() - began, planned_then - left, left)

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("run", "progress", "step", "loss", "images/s"):
            table.add_column(name, justify="left" if name in ("run", "progress") else "right")
        for run_id in self._running():
            facts, last = self._facts[run_id], self._last.get(run_id, {})
            bar = ProgressBar(total=max(1, facts.steps), completed=last.get("step", 0), width=24)
            step = f"{last.get('step', 0):,}/{facts.steps:,}"
            table.add_row(
                facts.label, bar, step, f"{last.get('train/loss', 0):.3f}", f"{last.get('speed/images_per_second', 0):,.0f}"
            )
        states = ", ".join(f"{count} {str(state).lower()}" for state, count in sorted(self.counts().items()))
        return Group(Text(f"{self._study}: {self._summary()}", style="bold"), Text(states, style="dim"), table)


def log_gap_seconds(elapsed_seconds: float) -> float:
    """Seconds between two lines of a plain log: more, the longer the study has run."""
    return min(max(LOG_SECONDS[0], LOG_SHARE * elapsed_seconds), LOG_SECONDS[1])


def _outcome(change: RunChange) -> str:
    """The result of a run: top-1, or the loss of an objective without labels."""
    result = change.folder.result()
    metrics = result.metrics if result else {}
    if "eval/top1" in metrics:
        return f"top-1 {metrics['eval/top1']:.1%}"
    return f"loss {metrics.get('eval/loss', float('nan')):.3g}"
