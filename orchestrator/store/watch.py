"""What is new in the store since the last look. Whoever follows a study (progress, tracking, limits) looks through here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.state import State


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run as it stands now; `last` is its newest metrics entry."""

    folder: RunFolder
    state: State
    last: dict[str, Any]


class Watch:
    """Looks at a fixed set of runs; remembers what each looked like to report only changes."""

    def __init__(self, store: Store, run_ids: Iterable[str]) -> None:
        self._folders = [store.run(run_id) for run_id in run_ids]
        self._known: dict[str, tuple[Any, ...]] = {}

    def look(self) -> list[Seen]:
        """Runs that changed since the last look."""
        changed = []
        for folder in self._folders:
            found = signature(folder)
            if found != self._known.get(folder.run_id, ()):
                self._known[folder.run_id] = found
                changed.append(Seen(folder=folder, state=folder.state(), last=_last_entry(folder)))
        done = {seen.folder.run_id for seen in changed if seen.state is State.DONE}
        if done:  # for good: a study of thousands of runs looks at those that are not done
            self._folders = [folder for folder in self._folders if folder.run_id not in done]
        return changed


def signature(folder: RunFolder) -> tuple[Any, ...]:
    """Name, inode, time and size of what decides a run's state; empty for a run that was never begun.

    Every file but the metrics is replaced, never rewritten: another content is another inode, however coarse the clock.
    """
    watched = [*folder.metrics_files(), folder.path / "failure.json", folder.path / "result.json"]
    found = []
    for path in watched:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _last_entry(folder: RunFolder) -> dict[str, Any]:
    entries = list(folder.metrics())
    return entries[-1] if entries else {}
