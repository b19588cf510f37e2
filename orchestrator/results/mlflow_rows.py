"""A study's runs as an MLflow server knows them: planned facts from their params, what came of them from metrics and tags.

`tracking` writes what is read here. Reads 1,000 runs a request; mlflow is imported when an address is asked.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import pandas as pd

from orchestrator.results import outcomes
from orchestrator.store.state import State
from vitmodel.config.base import UserError

Facts = dict[str, Any]

PAGE = 1000  # MLflow's limit for some stores is not much above
WHOLE = (
    "params",
    "forward_flops",
    "dataset_size",
    "steps",
    "examples_seen",
    "train_flops",
    "pretrain_flops",
    "resolution",
    "seed",
)
OPTIONAL = ("shots", "parent_id")
GROUP = ("workers", "cpus_per_worker", "gpus_per_worker", "zero_stage")


def read(uri: str, study: str) -> tuple[list[Facts], dict[str, Facts]]:
    """Planned facts of every run of the study, pretrainings before what starts from them, and what came of each by run_id.

    Raises UserError where the server cannot be reached or has no such study.
    """
    runs = [run for run in _runs(uri, study) if run.data.tags.get("phase") != "study"]
    facts = {run.data.tags["run_id"]: _facts(run.data.params) for run in runs}
    whole = {run_id: run for run_id, run in facts.items() if run["parent_id"] is None or run["parent_id"] in facts}
    found = {
        run.data.tags["run_id"]: _found(run.data, whole[run.data.tags["run_id"]])
        for run in runs
        if run.data.tags["run_id"] in whole
    }
    return sorted(whole.values(), key=lambda run: run["parent_id"] is not None), found


def _runs(uri: str, study: str) -> list[Any]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # after the import, which sets its own
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            names = ", ".join(sorted(found.name for found in client.search_experiments()))
            raise UserError(f"no study {study!r} was sent to MLflow at {uri}", allowed=names)
        pages = [client.search_runs([experiment.experiment_id], max_results=PAGE, order_by=["attributes.start_time ASC"])]
        while pages[-1].token:
            pages.append(
                client.search_runs(
                    [experiment.experiment_id],
                    max_results=PAGE,
                    order_by=["attributes.start_time ASC"],
                    page_token=pages[-1].token,
                )
            )
    except MlflowException as error:
        raise UserError(f"MLflow cannot be read at {uri}: {str(error).splitlines()[0][:200]}") from None
    return [run for page in pages for run in page]


def _facts(params: dict[str, str]) -> Facts:
    """Params are text: the numbers among them as plan.json has them."""
    facts: Facts = {**dict.fromkeys(OPTIONAL), **params}
    facts |= {name: int(float(params[name])) for name in WHOLE} | {"epochs": float(params["epochs"])}
    facts["shots"] = int(params["shots"]) if "shots" in params else None
    facts["placement"] = {"group": {name: int(params.get(f"placement.{name}", 0)) for name in GROUP}}
    return facts


def _found(data: Any, run: Facts) -> Facts:
    """What came of a run: as if its result.json had been read."""
    state = State(data.tags.get("state", State.RUNNING))
    head = {"status": str(state), "attempts": int(data.tags.get("attempts", 0)), "reason": data.tags.get("reason", "")}
    if state is not State.DONE:
        return {**head, **outcomes.without_result(float(data.tags.get("spent_seconds", 0.0)), run)}
    metrics = data.metrics
    result = {
        "metrics": metrics,
        "last": metrics,
        **{name: int(metrics.get(f"placement/{name}", run["placement"]["group"][name])) for name in GROUP},
        "gpu_hours": metrics["cost/gpu_hours"],
        "core_hours": metrics["cost/core_hours"],
        "micro_batch": int(metrics["placement/micro_batch"]) if "placement/micro_batch" in metrics else pd.NA,
        "peak_flops": metrics.get("speed/peak_flops", float("nan")),
    }
    return {**head, "reason": "", **outcomes.of_result(result, run)}
