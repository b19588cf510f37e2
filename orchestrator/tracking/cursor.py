"""How far a follower got: tracking.json, and a journal of what came since, so that noting one run never writes all of them.

The journal belongs to one state of tracking.json, which it names; without that it says nothing. Notes may be repeated.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from vitmodel.files import read_json, write_json

FILE, JOURNAL = "tracking.json", "tracking.jsonl"


class Cursor:
    """A follower's notes about one study at one address. `data`: uri, experiment, parent, making, runs."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._path, self._journal = folder / FILE, folder / JOURNAL
        found = read_json(self._path)
        self.data: dict[str, Any] = found if found and found["uri"] == uri else {"uri": uri, "runs": {}}
        for line in self._notes():
            self._apply(line)

    def making(self, run_id: str) -> None:
        """About to make a run: whoever comes after a sudden end looks whether it was made."""
        self._note({"making": run_id})

    def made(self, run_id: str, known: dict[str, Any]) -> None:
        """What is known of a run by now."""
        self._note({"run": run_id, "known": known})

    def save(self) -> None:
        """Write everything as one file, and begin a journal anew."""
        self.data["token"] = uuid.uuid4().hex
        write_json(self._path, self.data)
        self._journal.write_text(json.dumps({"of": self.data["token"]}) + "\n")

    def _note(self, line: dict[str, Any]) -> None:
        self._apply(line)
        with self._journal.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _apply(self, line: dict[str, Any]) -> None:
        if "making" in line:
            self.data["making"] = line["making"]
        else:
            self.data["runs"][line["run"]] = line["known"]

    def _notes(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        try:
            for line in self._journal.read_text().splitlines():
                lines.append(json.loads(line))
        except (FileNotFoundError, ValueError):  # none, or the last line of a killed writer
            pass
        return lines[1:] if lines and lines[0].get("of") == self.data.get("token") else []
