"""`python -m orchestrator.study FILE`: a study from its file to its report. The same command is its resume.

    read -> plan -> (refuse | print | go on) -> prepare data -> launch -> collect -> report

Exit codes: 0 all runs done; 1 some failed, diverged or were skipped; 2 the user's error, said before anything runs;
3 the cluster never offered what a run needs; 4 the budget is spent; 5 another live driver holds this study.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import budget
from orchestrator.outside import check_tracker
from orchestrator.plan import Plan, make_bundles, make_plan
from orchestrator.planview import phase_hours, plan_as_data, plan_as_text
from orchestrator.runs import Bundle, Cell
from orchestrator.schema import ExternalData
from orchestrator.secrets import as_named, expand_environment, redact
from orchestrator.spec import StudyFile, read_study
from orchestrator.store import Lease, LeaseHeldError, State, Store, write_json
from vitmodel.config import UserError

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.answers import Findings
    from orchestrator.follow import Follow

POLL_SECONDS = 0.5
DONE, SOME_FAILED, USER_ERROR, NO_CLUSTER, OVER_BUDGET, HELD = range(6)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A study that has been read and planned."""

    file: StudyFile
    store: Store
    plan: Plan
    bundles: list[Bundle]

    @cached_property
    def data(self) -> dict[str, Any]:
        """The plan as plain data, as plan.json has it."""
        data = plan_as_data(self.plan, self.bundles)
        variables = self.file.variables
        data["datasets"] = {name: as_named(root, variables) for name, root in data["datasets"].items()}
        return {**data, "imports": [table.name for table in self.file.study.imports]}

    def open_cells(self) -> tuple[Cell, ...]:
        """Cells with a run that has no result yet."""
        return tuple(c for c in self.plan.cells if any(self.store.run(r.run_id).state() is not State.DONE for r in c.runs))


def main(arguments: list[str] | None = None) -> int:
    """The command line. Prints one message for what a user got wrong."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.study", description="Run a study, or go on with it.")
    parser.add_argument("study", type=Path, help="the study's YAML file")
    parser.add_argument("--plan", action="store_true", help="print what would run and what it costs, then stop")
    parser.add_argument("--json", action="store_true", help="with --plan: as JSON")
    parser.add_argument("--storage", default=None, help="folder of all runs, in place of the file's storage.path")
    options = parser.parse_args(arguments)
    return run(options.study, storage=options.storage, plan_only=options.plan, as_json=options.json)


def run(path: Path, *, storage: str | None = None, plan_only: bool = False, as_json: bool = False) -> int:
    """Plan a study, and unless only the plan is wanted, run it. Returns the exit code."""
    try:
        prepared = prepare(path, storage)
        if plan_only:
            print(_plan_text(prepared, as_json))
            return DONE
        if prepared.plan.missing_indexes:
            prepared = _pack_missing(prepared, storage)
        return _run(prepared)
    except UserError as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return USER_ERROR
    except LeaseHeldError as error:
        print(f"error: {error}", file=sys.stderr)
        return HELD


def _pack_missing(prepared: Prepared, storage: str | None) -> Prepared:
    """Pack what the study describes and has the downloads of, then plan again: a packed dataset's identity is in its index."""
    from orchestrator.packing import pack_missing

    packed = pack_missing(prepared.file, prepared.plan.datasets, prepared.plan.missing_indexes)
    return prepare(Path(prepared.file.tree.file), storage) if packed else prepared


def bring_in_tables(prepared: Prepared) -> None:
    """Import the tables that stand beside the study file. Raises UserError, with the line of the table."""
    from orchestrator import imports, results

    folder = Path(prepared.file.tree.file).parent
    for number, asked in enumerate(prepared.file.study.imports):
        if asked.table is None:
            imports.load(prepared.store.root, asked.name, results.COLUMNS)
            continue
        table = folder / asked.table
        if not table.is_file():
            raise prepared.file.tree.error(f"no table {table}", ("imports", number, "table"), "a CSV, beside the study file")
        imports.bring_in(
            prepared.store.root,
            table,
            name=asked.name,
            source=asked.source,
            columns=asked.columns,
            dtypes=results.COLUMNS,
        )


def prepare(path: Path, storage: str | None = None) -> Prepared:
    """Read and plan. Raises UserError; touches nothing."""
    file = read_study(path)
    store = Store(storage_root(storage or expand_environment(file.study.storage.path)))
    plan = make_plan(file, store.root)
    nodes = budget.local_node()
    groups = {cell.pretrain.placement.group for cell in plan.cells}
    limit = file.study.resources.max_concurrent
    slots = (
        {g: 1 if g.gpus_per_worker else budget.slots(g, nodes) for g in groups}
        if limit == "auto"
        else dict.fromkeys(groups, limit)
    )
    return Prepared(file=file, store=store, plan=plan, bundles=make_bundles(plan.cells, slots, file.study.resources.bundle))


def storage_root(path: str) -> Path:
    """The storage folder as an absolute path. Inside a Ray job the working directory is a copy that is thrown away,
    so a relative path is taken from the home folder there."""
    base = Path.home() / "vitscale" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else Path.cwd()
    return (base / Path(path).expanduser()).absolute()


def _plan_text(prepared: Prepared, as_json: bool) -> str:
    done = sum(prepared.store.run(run.run_id).state() is State.DONE for run in prepared.plan.runs)
    if as_json:
        return json.dumps({**prepared.data, "done": done}, indent=1)
    return plan_as_text(prepared.plan, prepared.bundles, done)


def _run(prepared: Prepared) -> int:
    """Everything after the plan: checks, lease, data, launch, report."""
    from orchestrator.launch import on_cluster
    from orchestrator.room import check_room

    study = prepared.file.study
    if prepared.plan.missing_indexes:
        name = prepared.plan.missing_indexes[0]
        raise prepared.file.tree.error(
            f"no index.json in {prepared.data['datasets'][name]}",
            ("datasets", name, "url"),
            "a folder made by `vitscale data pack`",
        )
    cells = prepared.open_cells()
    if cells and not on_cluster() and not study.resources.wait_minutes:
        check_room(prepared.plan, budget.local_node())
    planned = prepared.data["totals"]["gpu_hours"]
    if study.budget.gpu_hours is not None and planned > study.budget.gpu_hours:
        print(
            f"over budget: the plan needs about {planned:g} GPU-hours, the limit is {study.budget.gpu_hours:g}", file=sys.stderr
        )
        return OVER_BUDGET
    _check_addresses(prepared.file)
    prepared.store.check_writable()
    if study.imports:
        bring_in_tables(prepared)
    lease = Lease(prepared.store.study(study.name))
    lease.take()
    try:
        return _drive(prepared, cells)
    finally:
        lease.release()


def _check_addresses(file: StudyFile) -> None:
    """Variables that are read later, in other threads, are set, and hold what may stand there."""
    try:
        check_tracker(expand_environment(file.study.tracking.mlflow))
    except (UserError, ValueError) as error:
        raise file.tree.error(getattr(error, "message", str(error)), ("tracking", "mlflow")) from None
    if file.study.notify:
        try:
            expand_environment(file.study.notify.webhook)
        except UserError as error:
            raise file.tree.error(error.message, ("notify", "webhook")) from None


def _drive(prepared: Prepared, cells: tuple[Cell, ...]) -> int:
    from rich.console import Console

    from orchestrator.follow import Follow
    from orchestrator.launch import launch, ray_session
    from orchestrator.room import NoClusterError, concurrency, wait_for_room

    study, store = prepared.file.study, prepared.store
    console = Console(highlight=False)
    started = time.time()
    folder = store.study(study.name)
    (folder / "stop.json").unlink(missing_ok=True)
    write_json(folder / "plan.json", prepared.data)
    runs, all_cells = len(prepared.plan.runs), len(prepared.plan.cells)
    console.print(f"{study.name}: {runs} runs, {len(cells)} of {all_cells} cells open, storage {store.root}")
    if study.targets:
        _forecast(prepared)
    follow = Follow(prepared.file.study, store, prepared.data, console, prepared.file.variables)
    if cells:
        _make_datasets(prepared, console)
        try:
            with ray_session() as nodes:
                room = wait_for_room(prepared.plan, nodes, study.resources.wait_minutes)
                slots = concurrency(cells, study, room)
                bundles = make_bundles(cells, slots, study.resources.bundle)
                with follow.in_background(bundles, slots, len(room)):
                    launch(study, prepared.plan, bundles, slots, store)
        except NoClusterError as error:
            print(f"error: {error}", file=sys.stderr)
            follow.notifier.say("failed", Counter(), reason=str(error))
            follow.notifier.close()
            return NO_CLUSTER
    return _finish(prepared, follow, started, worked=bool(cells))


def _forecast(prepared: Prepared) -> None:
    """Save what the rows there are say of targets that are not done, before anything runs."""
    from orchestrator import findings, results

    study, store = prepared.file.study, prepared.store
    frame = results.collect(store.root, study.name)
    findings.keep(findings.findings(frame, study), store.study(study.name))


def _make_datasets(prepared: Prepared, console: Any) -> None:
    """Generate what the study asks to be generated, where it is not there yet."""
    from vitmodel.data.index import INDEX_FILE, load_index
    from vitmodel.data.shards import pack

    for name, spec in prepared.file.study.datasets.items():
        root = Path(prepared.plan.datasets[name])
        if isinstance(spec, ExternalData):
            continue
        if (root / INDEX_FILE).exists():
            load_index(root)  # refuses one whose shards are not as they were
            continue
        began = time.perf_counter()
        index = pack(spec, root)
        samples, seconds = sum(split.samples for split in index.splits.values()), time.perf_counter() - began
        console.print(f"packed {name}: {samples:,} images of {index.classes} classes in {seconds:.1f} s")


def write_report(prepared: Prepared, efficiency: dict[str, Any]) -> tuple[pd.DataFrame, Findings, list[Path]]:
    """Collect the rows there are; write results.csv, what they say (findings.json, claims.csv), report.html, figures/."""
    from orchestrator import findings, report, results

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


def _finish(prepared: Prepared, follow: Follow, started: float, worked: bool) -> int:
    """Collect, report, send to MLflow and, where there was work, to the webhook; say where everything is."""
    frame, found, files = write_report(prepared, follow.efficiency(started))
    states = frame["status"].value_counts().to_dict()
    if worked:
        follow.notifier.say("done", Counter({State(str(state)): int(number) for state, number in states.items()}))
    sent = follow.tracking.finish(files, {f"runs.{state}": str(n) for state, n in states.items()})
    follow.notifier.close()
    _say(frame, found)
    _say_where(frame, files, follow, follow.efficiency(started), sent)
    if states.get("DONE", 0) == len(frame):
        return DONE
    return OVER_BUDGET if states.get("BUDGET") else SOME_FAILED


def _say(frame: pd.DataFrame, found: Findings) -> None:
    """Results, what they mean, and the verdicts on the study's claims and targets."""
    from orchestrator import findings, report

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


if __name__ == "__main__":
    sys.exit(main())
