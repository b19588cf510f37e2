"""All checks of `vitscale doctor`: what could stop a study, found before it starts.

Checks run at the same time in threads, each with a timeout, so that a tracker that hangs delays no other check.
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

TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check and its timeout."""

    name: str
    run: Callable[[], list[Finding]]
    timeout_seconds: float = TIMEOUT_SECONDS


@dataclass(frozen=True, kw_only=True)
class CheckedFinding:
    """A finding and the name of its check."""

    check: str
    finding: Finding


def checks(file: StudyFile | None, root: Path) -> list[Check]:
    """All checks of this machine, its cluster and the storage folder `root`; with a study, also of what it needs."""
    all_checks = [
        Check(name="versions", run=machine.versions),
        Check(name="gpus", run=machine.gpus, timeout_seconds=60.0),  # imports torch
        Check(name="limits", run=machine.limits),
        Check(name="auth", run=cluster.auth),
        Check(name="head", run=cluster.head),
        Check(name="dashboard", run=cluster.dashboard),
        Check(name="ports", run=cluster.ports),
        Check(name="storage", run=lambda: study.storage(root)),
        Check(name="nodes", run=lambda: cluster.shared_storage(root), timeout_seconds=cluster.NODES_SECONDS + 5),
        Check(name="tracker", run=lambda: study.tracker(file.study.tracking.mlflow if file else "auto", root)),
    ]
    if file is not None:
        all_checks += [
            Check(name="datasets", run=lambda: study.datasets(file, root)),
            Check(name="webhook", run=lambda: study.webhook(file)),
        ]
    return all_checks


def run_checks(todo: list[Check]) -> list[CheckedFinding]:
    """Run the checks at the same time. Returns their findings in the order of the checks."""
    results: dict[str, list[Finding]] = {}

    def work(check: Check) -> None:
        try:
            results[check.name] = check.run()
        except Exception as error:  # a check that breaks is itself a finding
            reason = str(redact(f"{type(error).__name__}: {error}"))
            results[check.name] = [fail(f"the check itself failed: {reason}", "report it as a bug, with this line")]

    began = time.monotonic()
    threads = [threading.Thread(target=work, args=(check,), daemon=True) for check in todo]
    for thread in threads:
        thread.start()
    for check, thread in zip(todo, threads, strict=True):
        thread.join(max(0.0, began + check.timeout_seconds - time.monotonic()))
    done = dict(results)
    return [
        CheckedFinding(check=check.name, finding=finding)
        for check in todo
        for finding in done.get(check.name, [_timed_out(check)])
    ]


def _timed_out(check: Check) -> Finding:
    fix = "find what does not answer on this machine: a network mount, a name server, a GPU driver"
    return fail(f"timed out after {check.timeout_seconds:g} s", fix)


def storage_of(file: StudyFile | None, given: str | None) -> str:
    """The storage folder: `given`, else as in the study, else the default."""
    return given or (expand_environment(file.study.storage.path) if file else "runs")


def as_data(findings: list[CheckedFinding]) -> list[dict[str, Any]]:
    """For JSON: check, level, text and fix of each."""
    return [{"check": checked.check, **asdict(checked.finding)} for checked in findings]


def all_passed(findings: list[CheckedFinding]) -> bool:
    """Whether nothing was found that would stop a study."""
    return all(checked.finding.level is not Level.FAIL for checked in findings)
