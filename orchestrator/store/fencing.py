"""Whether an attempt is still the one that counts: the fence between a worker group and the one that has taken its place.

A group whose controller or driver died may live on for a while, on a host that is cut off for long, and the storage is still
in its reach. It looks here before it publishes anything, and ends where another driver holds the study's lease, or another
group of its own driver has begun a later attempt. Groups of another study that share a run do not end each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.curve import json_lines
from orchestrator.store.layout import RunFolder
from vitmodel.files import read_json


@dataclass(frozen=True, kw_only=True)
class Fence:
    """One attempt's right to a run. `session`: the token of the lease under which it was begun; empty where there is none."""

    study: Path
    session: str
    folder: RunFolder
    attempt: int

    def is_current(self) -> bool:
        """Whether the attempt may still publish."""
        return is_driven(self.study, self.session) and not any(
            session == self.session for session in _sessions(self.folder.metrics_files()[self.attempt + 1 :])
        )


def session_of(study: Path) -> str:
    """The token of the lease on a study's folder, empty without one."""
    return str((read_json(study / "lease.json") or {}).get("token", ""))


def is_driven(study: Path, session: str) -> bool:
    """Whether no other driver has taken the study over since."""
    return not session or session_of(study) in ("", session)


def _sessions(files: list[Path]) -> list[str]:
    return [str(next(json_lines(path), {}).get("session", "")) for path in files]
