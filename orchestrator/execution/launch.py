"""Plan to Ray Tune: one trial for each bundle.

Concurrency is computed from the cluster's resources, because nothing in Ray refuses or queues worker groups that can never
fit next to each other. Resume never uses Tune's own state: a new Tuner gets what the store lacks.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.execution import elastic, janitor
from orchestrator.execution.orders import BundleOrders, RunOrder
from orchestrator.execution.trial import TrialConfig, trial
from orchestrator.plan.make import Plan
from orchestrator.plan.records import run_facts
from orchestrator.plan.runs import Bundle, Cell, WorkerGroup
from orchestrator.secrets import as_named, redact
from orchestrator.spec.schema import Study
from orchestrator.spec.study import variables_of
from orchestrator.store.fencing import is_driven_by, session_of
from orchestrator.store.layout import Store
from orchestrator.store.lease import LeaseHeldError
from orchestrator.store.records import StopRequest, as_json
from orchestrator.store.state import State
from orchestrator.store.stop import stop_request
from vitmodel.files import write_json

TRIAL_RESTARTS = 20  # of a trial whose host died; a trial reserves nothing and remembers nothing

log = logging.getLogger(__name__)


def launch(study: Study, plan: Plan, bundles: list[Bundle], slots: dict[WorkerGroup, int], store: Store) -> None:
    """Work through the given bundles. Returns when every trial has ended, with or without success: the store has the results.

    Raises LeaseHeldError where another driver has taken over the study.
    """
    from ray import tune

    folder = store.study(study.name)
    session = session_of(folder)
    shutil.rmtree(folder / "bundles", ignore_errors=True)
    scratch = store.root / "ray" / f"{study.name}-{time.time_ns()}"
    configs: dict[str, TrialConfig] = {}
    for bundle in bundles:
        path = folder / "bundles" / f"{bundle.bundle_id}.json"
        write_json(path, as_json(make_orders(study, plan, bundle, store)))
        configs[bundle.bundle_id] = {"orders": str(path), "scratch": str(scratch)}
    tuner = tune.Tuner(
        tune.with_resources(trial, {"memory": 1}),  # one byte: a CPU that a trial reserved would be missing for the workers
        **_schedule(bundles, configs, max(1, min(slots.values())), store),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=TRIAL_RESTARTS),
        ),
    )
    try:
        with janitor.sweeping():
            results = tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    errors = [str(error) for error in results.errors] + [r.metrics["error"] for r in results if (r.metrics or {}).get("error")]
    for error in errors:
        log.error(
            "a bundle ended early, run the study again to retry its runs: %s",
            redact(error.strip().splitlines()[-1], variables_of(study)),
        )
    if not is_driven_by(folder, session):
        raise LeaseHeldError("another driver has taken over the study")
    mark_unfinished(tuple(cell for bundle in bundles for cell in bundle.cells), store, stop_request(folder))


def _schedule(bundles: list[Bundle], configs: dict[str, TrialConfig], concurrent: int, store: Store) -> dict[str, Any]:
    """A Tuner's arguments: all bundles as one list or, where some wait for others, a searcher that hands them out."""
    from ray import tune

    if not any(bundle.after for bundle in bundles):
        return {
            "param_space": {
                "orders": tune.grid_search([config["orders"] for config in configs.values()]),
                "scratch": next(iter(configs.values()))["scratch"],
            },
            "tune_config": tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
        }
    from orchestrator.execution.fanout import Fanout

    return {
        "tune_config": tune.TuneConfig(
            search_alg=Fanout(bundles, configs, store),
            num_samples=-1,  # until the searcher is finished
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        )
    }


def make_orders(study: Study, plan: Plan, bundle: Bundle, store: Store) -> BundleOrders:
    """All that the worker group of this bundle needs to know."""
    variables = variables_of(study)
    return BundleOrders(
        bundle_id=bundle.bundle_id,
        study=study.name,
        session=session_of(store.study(study.name)),
        storage=str(store.root),
        group=bundle.group,
        sizes=elastic.sizes(bundle),
        device_peak_flops=plan.device.peak_flops,
        retries=study.on_failure.retries,
        checkpoint=study.resources.checkpoint,
        cache=study.resources.cache,
        skip_up_to=0.0 if study.on_bad_sample == "fail" else study.on_bad_sample.share,
        stall_seconds=60 * study.resources.stall_minutes,
        started=time.time(),
        variables=variables,
        git=git_state(),
        runs=tuple(
            RunOrder(
                config=run.config,
                facts=run_facts(run),
                data_root=as_named(run.source or plan.datasets[run.dataset], variables),
                earlier_attempts=store.run(run.run_id).attempts(),
            )
            for run in bundle.runs
        ),
    )


def mark_unfinished(cells: tuple[Cell, ...], store: Store, stop: StopRequest | None) -> None:
    """Give every run without a result or a cause a cause: no run stays RUNNING. `stop`: the request that stopped the study."""
    for cell in cells:
        for run in cell.runs:
            folder = store.run(run.run_id)
            if folder.state() not in (State.PLANNED, State.RUNNING):
                continue
            if stop:
                folder.fail(stop.state, stop.reason)
            elif reason := store.skip_reason(run.config.parent):
                folder.fail(State.SKIPPED, reason)
            else:
                folder.fail(State.FAILED, "its worker group ended before the run was done")


@cache
def git_state() -> str:
    """Commit of the code that runs, marked where the working tree has changes; empty outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
