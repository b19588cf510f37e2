"""A study's end: its rows collected, judged, reported, sent, and said on the terminal."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.plan.render import phase_hours
from orchestrator.prepare import Prepared
from orchestrator.secrets import redact
from orchestrator.store.state import State

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.monitor.follow import Follow
    from orchestrator.verdicts.answers import Findings


def write_report(prepared: Prepared, efficiency: dict[str, Any]) -> tuple[pd.DataFrame, Findings, list[Path]]:
    """Collect the rows there are; write results.csv, what they say (findings.json, claims.csv), report.html, figures/."""
    from orchestrator import results
    from orchestrator.report import page as report
    from orchestrator.verdicts import findings

    study, store = prepared.file.study, prepared.store
    folder = store.study(study.name)
    frame = results.collect(store.root, study.name)
    found = findings.keep(findings.findings(frame, study), folder)
    facts = {
        "title": study.report.title or study.name,
        "note": study.report.note,
        "study_yaml": redact(Path(prepared.file.tree.file).read_text(), prepared.file.variables),
        "resolved": redact(study.model_dump(mode="json", exclude_none=True, serialize_as_any=True), prepared.file.variables),
        "planned": {
            **prepared.data["totals"],
            "price_per_gpu_hour": prepared.plan.price_per_gpu_hour,
            "phases": phase_hours(prepared.plan),
        },
        "storage": str(store.root),
        **results.provenance(store.root, study.name),
        **efficiency,
    }
    page = report.write(frame, folder, facts, found)
    files = [results.write(frame, folder), page, folder / "claims.csv", folder / "figures"]
    return frame, found, [path for path in files if path.exists()]  # where nothing is done yet there is nothing to draw


def forecast(prepared: Prepared) -> None:
    """Save what the rows there are say of targets that are not done, before anything runs."""
    from orchestrator import results
    from orchestrator.verdicts import findings

    study, store = prepared.file.study, prepared.store
    frame = results.collect(store.root, study.name)
    findings.keep(findings.findings(frame, study), store.study(study.name))


def finish(prepared: Prepared, follow: Follow, started: float, worked: bool) -> Counter[State]:
    """Collect, report, send to MLflow and, where there was work, to the webhook; say where everything is.

    Returns how many runs ended how."""
    frame, found, files = write_report(prepared, follow.efficiency(started))
    ends = Counter(State(state) for state in frame["status"].astype(str))
    if worked:
        follow.notifier.say("done", ends)
    sent = follow.tracking.finish(files, {f"runs.{state.value}": str(number) for state, number in ends.items()})
    follow.notifier.close()
    _say(frame, found)
    _say_where(frame, files, follow, follow.efficiency(started), sent)
    return ends


def _say(frame: pd.DataFrame, found: Findings) -> None:
    """Results, what they mean, and the verdicts on the study's claims and targets."""
    from orchestrator.report import page as report
    from orchestrator.verdicts import findings

    print(report.table_text(frame))
    print(*report.summary_lines(frame), sep="\n")
    if text := findings.as_text(found):
        print(f"\n{text}")


def _say_where(frame: pd.DataFrame, files: list[Path], follow: Follow, facts: dict[str, Any], sent: bool) -> None:
    wall, training = facts["wall_seconds"], facts["training_seconds"]
    if training:
        ratio = f"{wall / training:.2f} x the pure training time it contains"
        print(f"\nwall-clock {wall:.0f} s = {ratio} ({training:.0f} s, {facts['slots']} groups side by side)")
    else:
        print("\nnothing was left to train")
    for failed in frame[~frame["status"].isin(["DONE"])].itertuples():
        print(f"{failed.status}: {failed.run_id}: {str(failed.reason).partition(chr(10))[0]}")
    print(f"\nresults   {files[0]}\nreport    {files[1]}")
    away = "" if sent else "   (MLflow was away; `vitscale sync` sends what is missing)"
    print(f"MLflow    {Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {follow.uri}{away}")
