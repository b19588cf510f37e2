"""What changed in the store since the last scan. Progress, tracking and limits all follow a study through here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.store.curve import Entry
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.state import State

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class RunChange:
    """A run that changed; `last` is its newest metrics entry."""

    folder: RunFolder
    state: State
    last: Entry


class Watch:
    """Scans a fixed set of runs and reports only those that changed since the last scan."""

    def __init__(self, store: Store, run_ids: Iterable[str]) -> None:
        self._folders = [store.run(run_id) for run_id in run_ids]
        self._known: dict[str, Signature] = {}

    def scan(self) -> list[RunChange]:
        """Runs that changed since the last scan."""
        changed = []
        for folder in self._folders:
            current = signature(folder)
            if current != self._known.get(folder.run_id, ()):
                self._known[folder.run_id] = current
                changed.append(RunChange(folder=folder, state=folder.state(), last=_last_entry(folder)))
        done = {change.folder.run_id for change in changed if change.state is State.DONE}
        if done:  # for good: in a study of thousands of runs only the open ones are looked at
            self._folders = [folder for folder in self._folders if folder.run_id not in done]
        return changed


def signature(folder: RunFolder) -> Signature:
    """Name, inode, time and size of the files that decide a run's state; empty for a run that was never started.

    Every file but the metrics is replaced and never rewritten: other content is another inode, however coarse the clock.
    """
    signatures = []
    for path in (*folder.metrics_files(), folder.path / "failure.json", folder.path / "result.json"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        signatures.append((path.name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(signatures)


def _last_entry(folder: RunFolder) -> Entry:
    entries = folder.metrics()
    return entries[-1] if entries else {}
