"""The end of a study: its rows collected, judged, reported, sent to MLflow, and summarised on the terminal."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.plan.render import phase_hours, totals
from orchestrator.prepare import Prepared
from orchestrator.secrets import redact
from orchestrator.store.state import FAILURES, SAVING_STOPS, State

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.monitor.follow import Efficiency, Follow
    from orchestrator.verdicts.answers import Findings

LISTED_FAILURES = 20  # on the terminal; all of them are in results.csv and in the report


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """The rows of a study, its findings, and the files they were written to."""

    frame: pd.DataFrame
    findings: Findings
    files: list[Path]  # results.csv, report.html and, where there is something to draw, claims.csv and figures/


def write_report(prepared: Prepared, efficiency: Efficiency | None = None) -> WrittenReport:
    """Collect the rows there are; write results.csv, findings.json, claims.csv, report.html and figures/."""
    from orchestrator import results
    from orchestrator.report.page import write_page
    from orchestrator.verdicts import findings

    study, store = prepared.file.study, prepared.store
    folder = store.study(study.name)
    frame = results.collect(store.root, study.name)
    answers = findings.save(findings.findings(frame, study), folder)
    variables = prepared.file.variables
    facts: dict[str, Any] = {
        "title": study.report.title or study.name,
        "note": study.report.note,
        "study_yaml": redact(Path(prepared.file.tree.file).read_text(), variables),
        "resolved": redact(study.model_dump(mode="json", exclude_none=True, serialize_as_any=True), variables),
        "planned": {
            **totals(prepared.plan, []).model_dump(),
            "price_per_gpu_hour": prepared.plan.price_per_gpu_hour,
            "phases": phase_hours(prepared.plan),
        },
        "storage": str(store.root),
        **results.provenance(store.root, study.name),
        **(efficiency._asdict() if efficiency else {}),
    }
    page = write_page(frame, folder, facts, answers)
    files = [results.write(frame, folder), page, folder / "claims.csv", folder / "figures"]
    return WrittenReport(frame=frame, findings=answers, files=[path for path in files if path.exists()])


def forecast(prepared: Prepared) -> None:
    """Before anything runs, save what the existing rows predict for targets that are not done."""
    from orchestrator import results
    from orchestrator.verdicts import findings

    study, store = prepared.file.study, prepared.store
    frame = results.collect(store.root, study.name)
    findings.save(findings.findings(frame, study), store.study(study.name))


def finish(prepared: Prepared, follow: Follow, started: float, *, has_worked: bool) -> Counter[State]:
    """Collect, report, send to MLflow and, after work, to the webhook; print where everything is.

    `started`: Unix time of the command. Returns the number of runs by state.
    """
    report = write_report(prepared, follow.efficiency(started) if has_worked else None)
    states = Counter(State(state) for state in report.frame["status"].astype(str))
    if has_worked:
        follow.notifier.send("done", states)
    is_sent = follow.tracking.finish(report.files, {f"runs.{state.value}": str(n) for state, n in states.items()})
    follow.notifier.close()
    _print_answers(report)
    for line in (*_efficiency_lines(follow.efficiency(started), has_worked), *open_run_lines(report.frame)):
        print(line)
    print(f"\nresults   {report.files[0]}\nreport    {report.files[1]}")
    missing = "" if is_sent else "   (MLflow is unavailable; `vitscale sync` sends what is missing)"
    print(f"MLflow    {Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {follow.uri}{missing}")
    return states


def _print_answers(report: WrittenReport) -> None:
    """Results, what they mean, and the verdicts on the study's claims and targets."""
    from orchestrator.report.sentences import summary_sentences
    from orchestrator.report.tables import results_text
    from orchestrator.verdicts import findings

    print(results_text(report.frame))
    print(*summary_sentences(report.frame), sep="\n")
    if text := findings.as_text(report.findings):
        print(f"\n{text}")


def _efficiency_lines(efficiency: Efficiency, has_worked: bool) -> list[str]:
    """Wall-clock against the pure training time of this command."""
    if efficiency.training_seconds:
        ratio = efficiency.wall_seconds / efficiency.training_seconds
        groups = f"{efficiency.slots} worker group(s) in parallel"
        return [
            f"\nwall-clock {efficiency.wall_seconds:.0f} s = {ratio:.2f} x the pure training time "
            f"({efficiency.training_seconds:.0f} s, {groups})"
        ]
    return ["\nno run was finished by this command"] if has_worked else ["\nall runs were done already: nothing was trained"]


def open_run_lines(frame: pd.DataFrame) -> list[str]:
    """What is not done: one line for each failed run, one for all stopped or skipped runs with the same reason."""
    rows = frame[frame["status"] != State.DONE]
    first_lines = [str(reason).partition("\n")[0] for reason in rows["reason"]]
    failed, grouped = [], Counter[tuple[str, str]]()
    for status, run_id, reason in zip(map(str, rows["status"]), map(str, rows["run_id"]), first_lines, strict=True):
        if status in FAILURES:
            failed.append(f"{status}: {run_id}: {reason}")
        else:
            grouped[status, reason] += 1
    lines = failed[:LISTED_FAILURES]
    if len(failed) > LISTED_FAILURES:
        lines.append(f"{len(failed) - LISTED_FAILURES} more failed runs are listed in the report")
    lines += [f"{status}: {number} run(s): {reason}" for (status, reason), number in sorted(grouped.items())]
    if frame["status"].isin(SAVING_STOPS).any():
        lines.append("Every running training saved a checkpoint. Run the same command to continue.")
    return lines
