"""`vitscale doctor`: everything that could stop a study, looked at before it does, each with its mend.

Checks run side by side in threads, and none is waited for longer than its limit: a tracker that hangs hangs alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.doctor import cluster, machine, study
from orchestrator.doctor.finding import Finding, Level, fail
from orchestrator.secrets import expand_environment, redact
from orchestrator.spec.study import StudyFile

LIMIT_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing to look at, and how long at most."""

    name: str
    look: Callable[[], list[Finding]]
    limit_seconds: float = LIMIT_SECONDS


@dataclass(frozen=True, kw_only=True)
class Line:
    """A finding and the check that made it."""

    check: str
    finding: Finding


def checks(file: StudyFile | None, root: Path) -> list[Check]:
    """All checks of this machine and its cluster; with a study, also of what it asks for."""
    found = [
        Check(name="versions", look=machine.versions),
        Check(name="gpus", look=machine.gpus, limit_seconds=60.0),  # imports torch
        Check(name="limits", look=machine.limits),
        Check(name="auth", look=cluster.auth),
        Check(name="head", look=cluster.head),
        Check(name="dashboard", look=cluster.dashboard),
        Check(name="ports", look=cluster.ports),
        Check(name="storage", look=lambda: study.storage(root)),
        Check(name="nodes", look=lambda: cluster.shared_storage(root), limit_seconds=cluster.NODES_SECONDS + 5),
        Check(name="tracker", look=lambda: study.tracker(file.study.tracking.mlflow if file else "auto", root)),
    ]
    if file is not None:
        found += [
            Check(name="datasets", look=lambda: study.datasets(file, root)),
            Check(name="webhook", look=lambda: study.webhook(file)),
        ]
    return found


def examine(todo: list[Check]) -> list[Line]:
    """Run the checks side by side; lines in the order of the checks."""
    results: dict[str, list[Finding]] = {}

    def work(check: Check) -> None:
        try:
            results[check.name] = check.look()
        except Exception as error:  # a check that breaks is itself a finding
            said = str(redact(f"{type(error).__name__}: {error}"))
            results[check.name] = [fail(f"could not be looked at: {said}", "report this, with what stands here")]

    began = time.monotonic()
    threads = [threading.Thread(target=work, args=(check,), daemon=True) for check in todo]
    for thread in threads:
        thread.start()
    for check, thread in zip(todo, threads, strict=True):
        thread.join(max(0.0, began + check.limit_seconds - time.monotonic()))
    done = dict(results)
    late = "something does not answer: a mount, a name server, a driver"
    return [
        Line(check=check.name, finding=finding)
        for check in todo
        for finding in done.get(check.name, [fail(f"not done after {check.limit_seconds:g} s", late)])
    ]


def storage_of(file: StudyFile | None, given: str | None) -> str:
    """The storage folder: as given, as the study says, or the default."""
    return given or (expand_environment(file.study.storage.path) if file else "runs")


def as_text(lines: list[Line]) -> str:
    """A line each; what is not well is followed by its mend."""
    width = max(len(line.check) for line in lines)
    text = [f"{line.finding.level:4} {line.check:{width}}  {_words(line.finding)}" for line in lines]
    counts = {level: sum(line.finding.level is level for line in lines) for level in Level}
    return "\n".join([*text, ", ".join(f"{number} {level}" for level, number in counts.items())])


def as_data(lines: list[Line]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"check": line.check, **asdict(line.finding)} for line in lines]


def is_well(lines: list[Line]) -> bool:
    """Nothing that would stop a study."""
    return all(line.finding.level is not Level.FAIL for line in lines)


def _words(finding: Finding) -> str:
    return f"{finding.text}\n{'':6}mend: {finding.mend}" if finding.mend else finding.text
