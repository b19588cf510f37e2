"""Fencing: whether an attempt may still publish, or another worker group has replaced its own.

A worker group whose controller or driver died may continue for a while, on a host that is cut off, with the storage still
reachable. It checks here before it publishes anything. It ends where another driver holds the study's lease, or where a
group of the same driver has started a later attempt. Groups of another study that share a run do not fence each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.curve import json_lines
from orchestrator.store.layout import RunFolder
from orchestrator.store.lease import lease_of


@dataclass(frozen=True, kw_only=True)
class Fence:
    """The right of one attempt to publish. `session`: token of the lease that it was started under, empty without one."""

    study: Path
    session: str
    folder: RunFolder
    attempt: int

    def is_current(self) -> bool:
        """Whether the attempt may still publish."""
        return is_driven_by(self.study, self.session) and not any(
            session == self.session for session in _sessions(self.folder.metrics_files()[self.attempt + 1 :])
        )


def session_of(study: Path) -> str:
    """The token of the lease on a study's folder, empty without one."""
    lease = lease_of(study)
    return lease.token if lease else ""


def is_driven_by(study: Path, session: str) -> bool:
    """Whether no other driver has taken over the study since the lease `session`."""
    return not session or session_of(study) in ("", session)


def _sessions(files: list[Path]) -> list[str]:
    return [str(next(json_lines(path), {}).get("session", "")) for path in files]
