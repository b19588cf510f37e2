"""How far tracking got: tracking.json, and a journal of later entries, so that an entry for one run never rewrites all.

The journal belongs to one version of tracking.json, which its first line names; otherwise it is ignored. Entries may repeat.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from pydantic import Field

from orchestrator.plan.records import Record
from orchestrator.store.records import as_json, read
from orchestrator.store.state import State
from vitmodel.config.base import UserError
from vitmodel.files import write_json

FILE, JOURNAL = "tracking.json", "tracking.jsonl"


class TrackedRun(Record):
    """What MLflow has of one run."""

    id: str  # MLflow's id
    step: int = 0  # last step whose metrics were sent
    state: str = State.RUNNING.value
    has_keys: bool = False  # whether its params were sent


class CursorFile(Record):
    """tracking.json."""

    uri: str
    experiment: str = ""
    parent: str = ""  # MLflow's id of the study's own run
    report: str = ""  # hash of the report that MLflow has
    token: str = ""
    runs: dict[str, TrackedRun] = Field(default_factory=dict)


class JournalEntry(Record):
    """One line of the journal. The first line has `of`; the others a run that is about to be created, or what MLflow has."""

    of: str = ""
    creating: str = ""
    run: str = ""
    tracked: TrackedRun | None = None


class Cursor:
    """The position of one study's tracking at one address. Written to disk before and after each creation in MLflow."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._path, self._journal = folder / FILE, folder / JOURNAL
        self._file = CursorFile(uri=uri)
        try:
            stored = read(self._path, CursorFile)
        except UserError:  # damaged: MLflow's runs are found again by their tags
            stored = None
        if stored and stored.uri == uri:
            self._file = stored
        self.runs: dict[str, TrackedRun] = dict(self._file.runs)
        self.creating = ""
        for entry in self._entries():
            self._apply(entry)

    @property
    def experiment(self) -> str:
        return self._file.experiment

    @property
    def parent(self) -> str:
        return self._file.parent

    def reset(self, experiment: str, runs: dict[str, TrackedRun]) -> None:
        """Start again for an experiment that has these runs."""
        self._file = CursorFile(uri=self._file.uri, experiment=experiment)
        self.runs, self.creating = dict(runs), ""
        self.save()

    def set_parent(self, parent: str) -> None:
        """Record MLflow's id of the study's own run."""
        self._file = self._file.model_copy(update={"parent": parent})

    @property
    def report(self) -> str:
        return self._file.report

    def set_report(self, digest: str) -> None:
        """Record the hash of the report that was sent."""
        self._file = self._file.model_copy(update={"report": digest})
        self.save()

    def note_creating(self, run_id: str) -> None:
        """A run is about to be created: after a crash the next driver looks for it in MLflow."""
        self._note(JournalEntry(creating=run_id))

    def note_tracked(self, run_id: str, tracked: TrackedRun) -> None:
        """What MLflow has of a run now."""
        self._note(JournalEntry(run=run_id, tracked=tracked))

    def save(self) -> None:
        """Write everything to tracking.json, and start a new journal."""
        self._file = self._file.model_copy(update={"token": uuid.uuid4().hex, "runs": dict(self.runs)})
        write_json(self._path, as_json(self._file))
        self._journal.write_text(JournalEntry(of=self._file.token).model_dump_json() + "\n")

    def _note(self, entry: JournalEntry) -> None:
        self._apply(entry)
        with self._journal.open("a") as file:
            file.write(entry.model_dump_json(exclude_defaults=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _apply(self, entry: JournalEntry) -> None:
        if entry.creating:
            self.creating = entry.creating
        elif entry.tracked is not None:
            self.runs[entry.run] = entry.tracked

    def _entries(self) -> list[JournalEntry]:
        entries: list[JournalEntry] = []
        try:
            for line in self._journal.read_text().splitlines():
                entries.append(JournalEntry.model_validate_json(line))
        except (FileNotFoundError, ValueError):  # no journal, or the last line of a killed writer
            pass
        return entries[1:] if entries and entries[0].of == self._file.token else []
