"""The report's tables of results, costs and failures, as plain data for its template.

Pure functions of the results frame. Every value is text. The template escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from orchestrator.results import summary
from orchestrator.results.summary import count, family_name, flops_text, percent
from orchestrator.units import duration

UNFINISHED = ("PLANNED", "RUNNING")


def results(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table per task: rows are model, images, length; columns are upstream, fine-tune epochs, shots. Top-1 in percent."""
    keys = ["family", "variant", "dataset_size", "length"]
    tasks = list(dict.fromkeys(task for task in frame["task"] if task)) or [""]
    frame = frame.assign(dataset_size=frame["dataset_size"].fillna(0))  # 0: not known (imported weights)
    params = frame.groupby(["family", "variant"])["params"].transform("min")  # heads differ between tasks
    order = frame.assign(params=params).sort_values(["family", "params", "variant", "dataset_size", "epochs"], kind="stable")
    return [_table(task, frame, keys, list(order[keys].drop_duplicates().itertuples(index=False, name=None))) for task in tasks]


def _table(task: str, frame: pd.DataFrame, keys: list[str], models: list[tuple[Any, ...]]) -> dict[str, Any]:
    rows = frame[(frame["task"] == task) | (frame["task"] == "")]
    columns = {("pretrain", 0.0): "upstream"} if (rows["phase"] == "pretrain").any() else {}
    if ((rows["phase"] == "finetune") & rows["finetune_epochs"].isna()).any():  # may be missing in imported rows
        columns["finetune", 0.0] = "fine-tuned"
    columns |= {
        ("finetune", e): f"{e:g} epoch{'s' if e != 1 else ''}" for e in sorted(rows["finetune_epochs"].dropna().unique())
    }
    columns |= {("probe", float(s)): summary.shots_text(s) for s in sorted(rows["shots"].dropna().unique())}
    amount = rows["finetune_epochs"].fillna(rows["shots"].astype("float64")).fillna(0.0)
    groups = dict(list(rows.groupby([*keys, "phase", amount], sort=False)))
    cells = {model: [_cell(groups.get((*model, *column))) for column in columns] for model in models}
    best = [max((row[i]["top1"] for row in cells.values()), default=math.nan) for i in range(len(columns))]
    return {
        "task": task,
        "columns": list(columns.values()),
        "lengths": list(dict.fromkeys(model[3] for model in models)),
        "rows": [
            {
                "family": family_name(model[0]),
                "model": model[1],
                "images": count(model[2]) if model[2] else "unknown",
                "size": int(model[2]),
                "length": model[3],
                "cells": [{**cell, "is_best": cell["top1"] == top} for cell, top in zip(row, best, strict=True)],
            }
            for model, row in cells.items()
        ],
    }


def _cell(rows: pd.DataFrame | None) -> dict[str, Any]:
    """Mean top-1 over seeds with its range, or the status of a run without a result."""
    if rows is None:
        return {"text": "", "range": "", "top1": -1.0}
    done = 100 * summary.finished(rows)["top1"]
    if not len(done):
        status = rows["status"].iloc[0].lower()
        return {"text": "" if status == "done" else status, "range": "", "top1": -1.0}  # a run without labels has no error
    spread = f"{done.min():.1f} to {done.max():.1f}" if len(done) > 1 else ""
    return {"text": f"{done.mean():.1f}", "range": spread, "top1": float(done.mean())}


def results_text(frame: pd.DataFrame) -> str:
    """The result tables for a terminal: a heading and aligned columns for each task."""
    return "\n\n".join(_aligned(table) for table in results(frame))


def _aligned(table: dict[str, Any]) -> str:
    shows_length = len(table["lengths"]) > 1
    head = ["model", "family", "images", *(["length"] if shows_length else []), *table["columns"]]
    lines = [head] + [
        [row["model"], row["family"], row["images"], *([row["length"]] if shows_length else [])]
        + [cell["text"] or "-" for cell in row["cells"]]
        for row in table["rows"]
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    texts = [
        [f"{text:<{width}}" if i < 2 else f"{text:>{width}}" for i, (text, width) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    title = f"top-1 in percent{' on ' + table['task'] if table['task'] else ''}, mean over seeds"
    return "\n".join([title, *("  ".join(text).rstrip() for text in texts)])


def every_run(frame: pd.DataFrame) -> dict[str, Any]:
    """All rows for the page's script: the column names, and the cells of each run as (text, value to sort by)."""
    rows = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    return {"columns": list(_RUN_CELLS), "rows": [[cell(row) for cell in _RUN_CELLS.values()] for row in rows]}


def _number_cell(name: str, as_text: Callable[[float], str]) -> Callable[[dict[str, Any]], tuple[str, Any]]:
    def cell(row: dict[str, Any]) -> tuple[str, Any]:
        return ("", "") if pd.isna(row[name]) else (as_text(row[name]), float(row[name]))

    return cell


def _text_cell(name: str) -> Callable[[dict[str, Any]], tuple[str, Any]]:
    return lambda row: (str(row[name]), str(row[name]))


def phases(frame: pd.DataFrame, planned: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The cost of each phase over all attempts; `planned` has core_hours and gpu_hours by phase, if known."""

    def spent_of_planned(phase: Any, key: str, spent: float) -> str:
        plan = planned.get(str(phase), {}).get(key)
        return hours(spent) if plan is None else f"{hours(spent)} of {hours(plan)}"

    return [
        {
            "phase": phase,
            "runs": f"{(rows['status'] == 'DONE').sum()} of {len(rows)}",
            "attempts": int(rows["attempts"].sum()),
            "time": duration(rows["seconds"].sum()),
            "core_hours": spent_of_planned(phase, "core_hours", rows["core_hours"].sum()),
            "gpu_hours": spent_of_planned(phase, "gpu_hours", rows["gpu_hours"].sum()),
            "mfu": percent(rows["mfu"].mean()) if rows["mfu"].notna().any() else "",
        }
        for phase, rows in frame.groupby("phase", sort=False)
    ]


def costs(frame: pd.DataFrame, facts: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, planned, spent): the planned and the actual cost of the study."""
    planned = facts.get("planned") or {}
    done = frame[frame["status"] == "DONE"]

    def plan(key: str, as_text: Callable[[float], str]) -> str:
        return as_text(planned[key]) if key in planned else ""

    def wall(key: str) -> str:
        return duration(facts[key]) if facts.get(key) is not None else ""

    lines = [
        ("runs", plan("runs", _whole), f"{len(done):,}"),
        ("pretrainings", plan("cells", _whole), f"{(done['phase'] == 'pretrain').sum():,}"),
        ("training compute", plan("train_flops", flops_text), flops_text(done["train_flops"].sum())),
        ("training compute without sharing pretrainings", plan("naive_train_flops", flops_text), ""),
        ("core-hours", plan("core_hours", hours), hours(frame["core_hours"].sum())),
        ("GPU-hours", plan("gpu_hours", hours), hours(frame["gpu_hours"].sum())),
        *_price(planned, float(frame["gpu_hours"].sum())),
        ("wall-clock time of the last execution", "", wall("wall_seconds")),
        ("training time in the last execution", "", wall("training_seconds")),
        ("concurrent worker groups", "", f"{facts['slots']}" if facts.get("slots") else ""),
    ]
    return [line for line in lines if line[1] or line[2]]


def _price(planned: dict[str, Any], gpu_hours: float) -> list[tuple[str, str, str]]:
    """The price of the GPU-hours, if the study gives one."""
    price = planned.get("price_per_gpu_hour")
    return [] if not price else [(f"price at {price:g} per GPU-hour", f"{planned['cost']:,.2f}", f"{price * gpu_hours:,.2f}")]


def failures(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Runs that ended without a result, grouped by cause."""
    rows = frame[~frame["status"].isin(["DONE", *UNFINISHED])]
    return [
        {
            "status": status,
            "cause": (reason.strip().splitlines() or ["no cause recorded"])[0],
            "attempts": int(group["attempts"].sum()),
            "details": reason if "\n" in reason.strip() else "",
            "runs": [
                f"{row['run_id']}: {row['variant']}, {_images(row['dataset_size'])}"
                + (f", {row['attempts']} attempts" if row["attempts"] > 1 else "")
                for row in group.to_dict("records")
            ],
        }
        for (status, reason), group in _grouped(rows)
    ]


def _grouped(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    return [((str(key[0]), str(key[1])), group) for key, group in rows.groupby(["status", "reason"], sort=False)]


def hours(value: float) -> str:
    """Core-hours or GPU-hours: `0.094`, `12.4`, `3,210`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _images(number: Any) -> str:
    return "imported" if pd.isna(number) else f"{count(number)} images"


def _whole(number: float) -> str:
    return f"{number:,}"


_RUN_CELLS: dict[str, Callable[[dict[str, Any]], tuple[str, Any]]] = {
    "run": _text_cell("run_id"),
    "phase": _text_cell("phase"),
    "model": _text_cell("variant"),
    "parameters": _number_cell("params", lambda v: f"{v:,}"),
    "images": _number_cell("dataset_size", lambda v: f"{v:,}"),
    "pretraining length": _text_cell("length"),
    "pretraining compute": _number_cell("pretrain_flops", flops_text),
    "task": _text_cell("task"),
    "fine-tune epochs": _number_cell("finetune_epochs", lambda v: f"{v:g}"),
    "shots": _number_cell("shots", lambda v: f"{v:g}"),
    "seed": _number_cell("seed", lambda v: f"{v}"),
    "top-1 (%)": _number_cell("top1", lambda v: f"{100 * v:.2f}"),
    "core-hours": _number_cell("core_hours", hours),
    "GPU-hours": _number_cell("gpu_hours", hours),
    "status": lambda row: (str(row["status"]).lower(), str(row["status"])),
    "attempts": _number_cell("attempts", lambda v: f"{v}"),
}
