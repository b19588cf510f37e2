"""The summary of a study in sentences: progress, the best model of each family, and the leading family by data and compute.

Pure functions of the results frame. If a family has no result, the sentence states that and compares nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from orchestrator.results import summary
from orchestrator.results.summary import and_list, count, family_name, flops_text, percent


def summary_sentences(frame: pd.DataFrame) -> list[str]:
    """The summary, one sentence per line; the first one is the progress of the study."""
    lines = [_progress(frame)]
    if not len(summary.finished(frame)):
        if (frame["status"] == "DONE").any():
            return [
                *lines,
                "Pretrainings without labels have a loss but no error. Add a fine-tune or a probe to compare them.",
            ]
        return [*lines, "No run has a result yet, so the families cannot be compared."]
    for task, how, rows in _views(frame):
        lines += [*_family_lines(f"{task}, {how}", rows), *_size_lines(task, rows), *_flops_lines(task, rows)]
    lines += _imported_lines(frame)
    if frame["seed"].nunique() == 1:
        lines.append("Each point is a single seed: small differences may be due to chance.")
    return lines


def _progress(frame: pd.DataFrame) -> str:
    states = frame["status"].value_counts()
    others = ", ".join(f"{number} {str(state).lower()}" for state, number in states.items() if state != "DONE")
    return f"{states.get('DONE', 0)} of {len(frame)} runs are done" + (f"; {others}." if others else ".")


def _views(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(task, how its error was measured, rows): the fine-tunes of each task, otherwise the probes, otherwise pretrainings."""
    phases = set(frame["phase"])
    for task in summary.tasks(frame, "finetune"):
        rows = summary.finetuned(frame, task)
        yield task, summary.finetune_length(rows), rows
    for task in summary.tasks(frame, "probe") if "finetune" not in phases else []:
        rows = summary.probed(frame, task)
        yield task, summary.probe_text(rows["shots"].iloc[0]), rows
    if phases == {"pretrain"} and len(summary.pretrained(frame)):
        yield frame["dataset"].iloc[0], "after pretraining", summary.pretrained(frame)


def _family_lines(what: str, rows: pd.DataFrame) -> Iterator[str]:
    """The best variant of each family and the change of its error with data, the best family first."""
    points = summary.curve(summary.longest(rows), "dataset_size")
    ranking = summary.best_by_family(points)
    for best in ranking:
        line = points[(points["family"] == best.family) & (points["variant"] == best.variant)].dropna(subset=["mean"])
        images = line.sort_values("mean", kind="stable")["dataset_size"].iloc[0]
        yield (
            f"{family_name(best.family)} on {what}: best error {percent(best.mean)} ({best.variant}, "
            f"pretrained on {count(images)} images){_change_with_data(line)}."
        )
    for family in dict.fromkeys(points["family"]):
        if family not in {best.family for best in ranking}:
            yield f"{family_name(family)} on {what}: no result yet."


def _imported_lines(frame: pd.DataFrame) -> Iterator[str]:
    """The best imported weights. They are in no curve, because their pretraining data and compute are not known."""
    rows = frame[frame["dataset_size"].isna()].fillna({"dataset_size": 0, "pretrain_flops": 0.0})
    for task in summary.tasks(rows, "finetune"):
        finetunes = summary.finetuned(rows, task)
        for best in summary.best_by_family(summary.curve(finetunes, "dataset_size")):
            yield (
                f"{family_name(best.family)} from imported weights on {task}, {summary.finetune_length(finetunes)}: "
                f"best error {percent(best.mean)} ({best.variant}); its pretraining compute is not known."
            )


def _change_with_data(line: pd.DataFrame) -> str:
    """How the error of a variant changes with data; empty with results at only one size."""
    first, last = line.iloc[0], line.iloc[-1]
    if first["dataset_size"] == last["dataset_size"]:
        return ""
    sizes = f"from {count(first['dataset_size'])} to {count(last['dataset_size'])} images"
    change = f"; {sizes}, its error changes from {percent(first['mean'])} to {percent(last['mean'])}"
    if min(first["mean"], last["mean"]) <= 0:
        return change
    doubling = (last["mean"] / first["mean"]) ** (1 / math.log2(last["dataset_size"] / first["dataset_size"]))
    return f"{change}, by a factor of {doubling:.2f} per doubling"


def _size_lines(task: str, rows: pd.DataFrame) -> Iterator[str]:
    """The leading family with the fewest and with the most pretraining images."""
    points = summary.curve(summary.longest(rows), "dataset_size")
    if points["family"].nunique() < 2:
        return
    sizes = sorted(points["dataset_size"].unique())
    for name, size in {"fewest": sizes[0], "most": sizes[-1]}.items() if len(sizes) > 1 else {"only": sizes[0]}.items():
        where = f"with the {name} images ({count(size)})" if len(sizes) > 1 else f"with {count(size)} images"
        yield _comparison(task, where, points[points["dataset_size"] == size])


def _flops_lines(task: str, rows: pd.DataFrame) -> Iterator[str]:
    """The leading family at both ends of the range of pretraining compute that all families share."""
    points = summary.flops_curve(rows)
    if points["family"].nunique() < 2:
        return
    common = summary.common_flops(points)
    if common is None:
        yield (f"On {task}, the families cannot be compared at equal pretraining compute: they have no common range of FLOPs.")
        return
    for flops in dict.fromkeys(common):
        where = f"with at most {flops_text(flops)} of pretraining"
        yield _comparison(task, where, summary.up_to_flops(points, flops))


def _comparison(task: str, where: str, points: pd.DataFrame) -> str:
    """The leading family among these points with all errors, and the families without a result."""
    ranking = summary.best_by_family(points)
    done = {best.family for best in ranking}
    missing = [family_name(name) for name in dict.fromkeys(points["family"]) if name not in done]
    if len(ranking) == 1 and not missing:
        return f"On {task}, only {family_name(ranking[0].family)} was run {where}: {ranking[0]}."
    if len(ranking) < 2:
        return f"On {task}, the families cannot be compared {where}: no result for {and_list(missing)}."
    rest = f"; no result for {and_list(missing)}" if missing else ""
    errors = ", ".join(f"{family_name(best.family)} {best}" for best in ranking)
    return f"On {task}, {summary.leaders_text(summary.leaders(ranking), where)}: {errors}{rest}."
