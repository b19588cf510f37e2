"""A study's runs as an MLflow server has them: planned facts from their params, outcomes from metrics and tags.

Reads what `orchestrator.tracking` writes, 1,000 runs a request. mlflow is imported only when an address is read.
"""

from __future__ import annotations

from typing import Any

from orchestrator.mlflow_client import mlflow_client
from orchestrator.plan.records import PLACEMENT, RunFacts
from orchestrator.plan.runs import Placement, WorkerGroup
from orchestrator.results import outcome
from orchestrator.results.outcome import Row
from orchestrator.store.records import RunResult
from orchestrator.store.state import State
from vitmodel.config.base import UserError

PAGE = 1000  # runs a request; the limit of some MLflow stores is not much higher
WHOLE = (
    "params",
    "forward_flops",
    "dataset_size",
    "steps",
    "examples_seen",
    "train_flops",
    "pretrain_flops",
    "resolution",
    "shots",
    "seed",
)


def read(uri: str, study: str) -> tuple[tuple[RunFacts, ...], dict[str, Row]]:
    """Planned facts of every run of the study, pretrainings before the runs that start from them, and outcomes by run_id.

    Raises UserError where the server cannot be reached or has no such study.
    """
    runs = {run.data.tags["run_id"]: run.data for run in _runs(uri, study) if run.data.tags.get("phase") != "study"}
    facts = {run_id: _facts(run_id, data.params) for run_id, data in runs.items()}
    with_parent = {run_id: run for run_id, run in facts.items() if run.parent_id is None or run.parent_id in facts}
    rows = {run_id: _outcome(runs[run_id], run) for run_id, run in with_parent.items()}
    return tuple(sorted(with_parent.values(), key=lambda run: run.parent_id is not None)), rows


def _runs(uri: str, study: str) -> list[Any]:
    from mlflow.exceptions import MlflowException

    try:
        client = mlflow_client(uri)
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            names = ", ".join(sorted(known.name for known in client.search_experiments()))
            raise UserError(f"MLflow at {uri} has no study {study!r}", allowed=names)
        runs: list[Any] = []
        token = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id], max_results=PAGE, order_by=["attributes.start_time ASC"], page_token=token
            )
            runs, token = [*runs, *page], page.token
            if not token:
                return runs
    except MlflowException as error:
        raise UserError(f"MLflow cannot be read at {uri}: {str(error).splitlines()[0][:200]}") from None


def _facts(run_id: str, params: dict[str, str]) -> RunFacts:
    """Params are text: converted to what plan.json has. The placement has only the worker group."""
    group = WorkerGroup(**{name: int(params.get(f"placement.{name}", 0)) for name in PLACEMENT})
    placement = Placement(
        group=group, micro_batch=1, accumulation=1, activation_checkpointing=False, memory_bytes=0, seconds=0.0
    )
    values: dict[str, Any] = dict.fromkeys(RunFacts.model_fields)
    values |= {name: value for name, value in params.items() if name in values}
    values |= {name: int(float(params[name])) for name in WHOLE if name in params}
    values["epochs"] = float(params["epochs"]) if "epochs" in params else None
    text = {name: params.get(name, "") for name in ("recipe", "objective", "label")}
    return RunFacts(**{**values, **text, "run_id": run_id, "placement": placement})


def _outcome(data: Any, facts: RunFacts) -> Row:
    """The outcome of a run, as if its result.json had been read."""
    state = State(data.tags.get("state", State.RUNNING))
    head = {"status": str(state), "attempts": int(data.tags.get("attempts", 0)), "reason": data.tags.get("reason", "")}
    if state is not State.DONE:
        return {**head, **outcome.without_result(float(data.tags.get("spent_seconds", 0.0)), facts)}
    metrics, group = data.metrics, facts.placement.group
    micro_batch = metrics.get("placement/micro_batch")
    placed = {name: int(metrics.get(f"placement/{name}", getattr(group, name))) for name in PLACEMENT}
    result = RunResult(
        run_id=facts.run_id,
        metrics=metrics,
        last=metrics,
        workers=placed["workers"],
        cpus_per_worker=placed["cpus_per_worker"],
        gpus_per_worker=placed["gpus_per_worker"],
        zero_stage=placed["zero_stage"],
        gpu_hours=metrics["cost/gpu_hours"],
        core_hours=metrics["cost/core_hours"],
        micro_batch=None if micro_batch is None else int(micro_batch),
        seconds=metrics.get("time/seconds"),
        peak_flops=metrics.get("speed/peak_flops", float("nan")),
    )
    return {**head, "reason": "", **outcome.of_result(result, facts)}
