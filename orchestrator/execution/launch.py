"""Plan to Ray Tune: one trial a bundle, one Ray Train worker group a trial.

Concurrency is computed from the cluster's resources, because nothing in Ray refuses or queues worker groups that
can never fit beside each other. Resume never goes through Tune's own state: a new Tuner gets what the store lacks.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.execution import elastic, janitor
from orchestrator.execution.capacity import nodes_of_cluster, refuse_drained_node
from orchestrator.plan import budget
from orchestrator.plan.budget import Group
from orchestrator.plan.make import Plan
from orchestrator.plan.render import run_facts
from orchestrator.plan.runs import Bundle, Cell
from orchestrator.secrets import as_named, redact
from orchestrator.spec.schema import Study
from orchestrator.spec.study import variables_of
from orchestrator.store.fencing import is_driven, session_of
from orchestrator.store.layout import Store
from orchestrator.store.lease import LeaseHeldError
from orchestrator.store.state import STOP_FILE, State
from vitmodel.files import read_json, write_json
from vitmodel.training import allocator

# Read by Ray when it is imported; Tune and Train hand them on to trials, controllers and workers (docs/decisions.md).
RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
GROUP_TIMEOUT_SECONDS = 120  # of a collective that waits for a dead worker
TRIAL_DEATHS = 20  # of hosts that a trial, which holds nothing and remembers nothing, may lie on


def on_cluster() -> bool:
    """Whether a cluster is named; else Ray is started here, for this study alone."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def ray_session() -> Iterator[list[dict[str, float]]]:
    """Connect to the cluster, or start one of this machine, and yield the resources of its live nodes."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not on_cluster():  # a private cluster, with its own token
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ.setdefault("RAY_gcs_rpc_server_connect_timeout_s", "1")  # the head is here; five tries, else 25 s
    import ray

    variables = {"RAY_TRAIN_METRICS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not on_cluster():
        # Without the address Ray would join whatever cluster somebody has started on this machine.
        settings |= {"address": "local", "num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    ray.init(runtime_env={"env_vars": variables}, **settings)
    try:
        yield nodes_of_cluster()
    finally:
        ray.shutdown()


def launch(study: Study, plan: Plan, bundles: list[Bundle], slots: dict[Group, int], store: Store) -> None:
    """Work through the given bundles. Returns when every trial has ended, well or not: the store says how."""
    from ray import tune

    folder = store.study(study.name)
    session = session_of(folder)
    shutil.rmtree(folder / "bundles", ignore_errors=True)
    scratch = store.root / "ray" / f"{study.name}-{time.time_ns()}"
    configs = {}
    for bundle in bundles:
        payload = folder / "bundles" / f"{bundle.bundle_id}.json"
        write_json(payload, bundle_payload(study, plan, bundle, store))
        configs[bundle.bundle_id] = {"payload": str(payload), "scratch": str(scratch)}
    tuner = tune.Tuner(
        tune.with_resources(trial, {"memory": 1}),  # a byte: any CPU it held would be missing for the workers
        **schedule(bundles, configs, max(1, min(slots.values())), store),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=TRIAL_DEATHS),
        ),
    )
    try:
        with janitor.sweeping():
            results = tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    ended = [str(error) for error in results.errors] + [r.metrics["error"] for r in results if (r.metrics or {}).get("error")]
    for error in ended:
        said = redact(error.strip().splitlines()[-1], variables_of(study))
        logging.getLogger(__name__).error("bundle ended early: %s", said)
    if not is_driven(folder, session):
        raise LeaseHeldError("another driver has taken the study over")
    mark_unfinished(tuple(cell for bundle in bundles for cell in bundle.cells), store, read_json(folder / STOP_FILE))


def schedule(bundles: list[Bundle], configs: dict[str, dict[str, str]], concurrent: int, store: Store) -> dict[str, Any]:
    """A Tuner's arguments: all bundles as one list or, where some wait for others, handed out by a searcher."""
    from ray import tune

    if not any(bundle.after for bundle in bundles):
        shared = next(iter(configs.values()))["scratch"]
        payloads = tune.grid_search([config["payload"] for config in configs.values()])
        return {
            "param_space": {"payload": payloads, "scratch": shared},
            "tune_config": tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
        }
    from orchestrator.execution.fanout import Fanout

    fanout = Fanout(bundles, configs, store)
    # -1: as many samples as it gives
    return {
        "tune_config": tune.TuneConfig(search_alg=fanout, num_samples=-1, max_concurrent_trials=concurrent, reuse_actors=True)
    }


def lean_trainer() -> Any:
    """TorchTrainer without the actors that do nothing for us: each is a Python process to start, 2 s of a core.

    The dataset manager serves Ray Data, which we do not use. The placement group cleaner's work is the driver's (janitor.py).
    """
    from ray.train.torch import TorchTrainer

    needless = {"DatasetsCallback", "PlacementGroupCleanerCallback"}

    class LeanTrainer(TorchTrainer):  # type: ignore[misc, unused-ignore]
        def _create_default_callbacks(self) -> list[Any]:
            return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in needless]

    return LeanTrainer


def trial(config: dict[str, Any]) -> dict[str, Any]:
    """One Tune trial: the worker group of one bundle, started again after its workers die.

    A group of fixed size is started again by Ray Train. One that takes what there is room for comes back here, and goes
    on with as many workers as the cluster offers then. What ends it for good is a value and not an error: Tune starts
    a trial again after errors, and is to do so only where the trial itself died, with its host.
    """
    import ray.train

    payload = read_json(Path(config["payload"]))
    if (Path(payload["storage"]) / "studies" / payload["study"] / STOP_FILE).exists():
        return {"executed": 0}  # no group is started to do nothing
    try:
        if payload["resize"]:
            return {"executed": elastic.run(payload, lambda workers: group_of(payload, workers, 0, config).fit().return_value)}
        return {"executed": fixed_group(payload, config)}
    except ray.train.TrainingFailedError as error:
        return {"executed": 0, "error": f"{type(error).__name__}: {error}"}


def fixed_group(payload: dict[str, Any], config: dict[str, Any]) -> int:
    """Work through a bundle with a group of fixed size, with another controller where one is killed."""
    from ray.exceptions import RayActorError

    for left in range(payload["group_failures"], -1, -1):
        try:
            return int(group_of(payload, payload["workers"], left, config).fit().return_value)
        except RayActorError as error:  # not an end that Ray Train knows of
            died = error
    raise died


def group_of(payload: dict[str, Any], workers: int, failures: int, config: dict[str, Any]) -> Any:
    """The Ray Train trainer of one worker group. Raises LeavingError on a node that is drained: its controller would lie there,
    and never start. The trial then ends with an error, and Tune starts it again on another node."""
    import ray.train

    from orchestrator.execution.preemption import NoticedTorchConfig
    from orchestrator.execution.worker import work

    refuse_drained_node()
    uses_gpu = payload["gpus_per_worker"] > 0
    timeout = max(GROUP_TIMEOUT_SECONDS, int(payload["stall_seconds"]) + 60)  # a stall is to be seen as one first
    return lean_trainer()(
        work,
        train_loop_config=payload,
        torch_config=NoticedTorchConfig(backend="nccl" if uses_gpu else "gloo", timeout_s=timeout),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=uses_gpu,
            resources_per_worker={
                "CPU": payload["cpus_per_worker"],
                **({"GPU": payload["gpus_per_worker"]} if uses_gpu else {}),
            },
        ),
        run_config=ray.train.RunConfig(
            name=f"{Path(config['payload']).stem}-{time.time_ns()}",
            storage_path=config["scratch"],
            failure_config=ray.train.FailureConfig(
                max_failures=failures,
                controller_failure_limit=0 if payload["resize"] else -1,  # else it waits for ever for a node that has died
            ),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={} if uses_gpu else {"env_vars": allocator.ENVIRONMENT},
        ),
    )


def bundle_payload(study: Study, plan: Plan, bundle: Bundle, store: Store) -> dict[str, Any]:
    """All that a worker group needs to know, as plain data."""
    runs = bundle.runs
    group, retries, checkpoint = bundle.group, study.on_failure.retries, study.resources.checkpoint
    variables = variables_of(study)
    return {
        "study": study.name,
        "session": session_of(store.study(study.name)),
        "storage": str(store.root),
        "workers": group.workers,
        "cpus_per_worker": group.cpus_per_worker,
        "gpus_per_worker": group.gpus_per_worker,
        "zero_stage": group.zero_stage,
        "peak_flops": budget.device_of(study.resources).peak_flops,
        "retries": retries.model_dump(),
        "group_failures": (retries.failures + retries.preemptions + retries.oom + retries.stalls + 1) * len(runs),
        "checkpoint": {"seconds": checkpoint.seconds, "steps": checkpoint.steps, "keep": checkpoint.keep},
        "cache": study.resources.cache,
        "skip_up_to": 0.0 if study.on_bad_sample == "fail" else study.on_bad_sample.share,
        "stall_seconds": 60 * study.resources.stall_minutes,
        "sizes": elastic.sizes(bundle),
        "resize": str(store.study(study.name) / "bundles" / f"{bundle.bundle_id}.resize.json") if group.max_workers else "",
        "began": time.time(),
        "variables": variables,  # names: each worker reads their values itself
        "git": git_state(),
        "first_attempts": {run.run_id: store.run(run.run_id).attempts() for run in runs},
        "runs": [
            {
                "run_id": run.run_id,
                "config": run.config.model_dump(mode="json"),
                "facts": run_facts(run),
                "data_root": as_named(run.source or plan.datasets[run.dataset], variables),
            }
            for run in runs
        ],
    }


def mark_unfinished(cells: tuple[Cell, ...], store: Store, stop: dict[str, Any] | None) -> None:
    """Give every run without a result or a cause a cause: nothing stays RUNNING. `stop`: why the study was stopped."""
    for cell in cells:
        for run in cell.runs:
            folder, parent = store.run(run.run_id), run.config.parent
            if folder.state() not in (State.PLANNED, State.RUNNING):
                continue
            folder.path.mkdir(parents=True, exist_ok=True)
            if stop:
                folder.fail(State(stop["state"]), stop["reason"])
            elif parent and store.run(parent).state() is not State.DONE:
                folder.fail(State.SKIPPED, f"parent {parent} has no result")
            else:
                folder.fail(State.FAILED, "its worker group ended before it was done")


@cache
def git_state() -> str:
    """Commit of the code that runs, marked where the tree has changes; empty outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip()
