"""The report of a study: verdicts, what the rows say in words, curves, tables, what it cost, what failed, where it comes from.

Reads the results frame, findings and a plain dict of facts; writes one self-contained report.html and its figures as files.
The page loads nothing: its scripts are inside, named by hash in its content security policy. Whatever came from files is
escaped by the template or shown as text by the script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import uuid
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.report import answer_tables, charts, interactive, law_charts, plots, tables
from orchestrator.report.charts import Chart
from orchestrator.results import summary
from orchestrator.results.summary import count, family_name, flops_text, percent
from orchestrator.verdicts.answers import Findings

PLACED_FACTS = ("title", "note", "study_yaml", "resolved", "planned", "wall_seconds", "training_seconds", "slots")
LEGEND_WORDS = "Point at a mark for its run, size, data, compute and top-1; touch a name in a legend to hide it; drag to zoom."


def write(frame: pd.DataFrame, folder: Path, facts: dict[str, Any], findings: Findings | None = None) -> Path:
    """Write report.html, replaced in one step, and figures/NAME.svg and .png; returns the page's path.

    Of `facts` any key may be absent: title, note, study_yaml, resolved (the study with its defaults), planned (the totals of
    plan.json, with the price of a GPU-hour and hours by phase); wall_seconds, training_seconds and slots (worker groups side
    by side) of this execution; every other key (storage, git, packages and what else `results.provenance` knows) stands
    under provenance.
    """
    drawn = _charts(frame, findings)
    scripts = [Markup(_template(name)) for name in ("plotly-basic.min.js", "report.js")]
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=facts.get("title") or (frame["study"].iloc[0] if len(frame) else "study"),
            note=facts.get("note", ""),
            study_yaml=facts.get("study_yaml", ""),
            resolved=json.dumps(facts["resolved"], indent=1) if facts.get("resolved") else "",
            **answer_tables.of_findings(findings),
            summary=summary_lines(frame),
            legend_words=LEGEND_WORDS,
            figures=[_figure(chart, folder / "figures") for chart in drawn],
            charts=[interactive.figure(chart) for chart in drawn],
            tables=tables.results(frame),
            runs=tables.every_run(frame),
            costs=tables.costs(frame, facts),
            phases=tables.phases(frame, facts.get("planned", {}).get("phases", {})),
            failures=tables.failures(frame),
            unfinished=int(frame["status"].isin(tables.UNFINISHED).sum()),
            provenance={key: _plain(value) for key, value in facts.items() if key not in PLACED_FACTS},
            style=Markup(_template("report.css")),
            scripts=scripts,
            policy=_policy(scripts),
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    partial_file = folder / f".report.html.{uuid.uuid4().hex[:8]}"
    partial_file.write_text(page, encoding="utf-8")
    return partial_file.replace(folder / "report.html")


def _charts(frame: pd.DataFrame, findings: Findings | None) -> list[Chart]:
    """Curves with laws first; a curve of the frame that stands among them already is left out."""
    if findings is None:
        return list(charts.of_frame(frame))
    better = law_charts.stand_ins(findings)
    return [*law_charts.of_findings(findings), *(chart for chart in charts.of_frame(frame) if chart.name not in better)]


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> str:
    return (files("orchestrator.report") / "templates" / name).read_text(encoding="utf-8")


def _policy(scripts: list[Markup]) -> str:
    """The page may run these scripts and show images that it contains; it can neither load nor send anything."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{found}'" for found in hashes)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'"


def _figure(chart: Chart, folder: Path) -> dict[str, str]:
    """What the page shows of a chart besides the live one: its words, and a drawing for paper and where no script runs."""
    figure = plots.draw(chart)
    drawn = base64.b64encode(plots.save(figure, folder, chart.name)).decode()
    image = {"source": f"data:image/svg+xml;base64,{drawn}", "words": plots.words(figure)}
    return {"title": chart.title, "subtitle": chart.subtitle, **image}


def table_text(frame: pd.DataFrame) -> str:
    """The result tables for a terminal."""
    return tables.results_text(frame)


# --- in words -------------------------------------------------------------------------------------------------


def summary_lines(frame: pd.DataFrame) -> list[str]:
    """What the rows say, in sentences: how far the study is, where each family stands, who leads where.

    Says that it cannot tell where a family has no result.
    """
    lines = [_progress(frame)]
    if not len(summary.finished(frame)):
        if (frame["status"] == "DONE").any():
            return [
                *lines,
                "What was pretrained without labels has a loss and no error: a transfer or a probe would compare it.",
            ]
        return [*lines, "No run has a result yet: nothing can be said about the families."]
    for task, how, rows in _views(frame):
        lines += [*_family_lines(f"{task}, {how}", rows), *_size_lines(task, rows), *_flops_lines(task, rows)]
    lines += _imported_lines(frame)
    if frame["seed"].nunique() == 1:
        lines.append("Each point is one seed: small differences may be chance.")
    return lines


def _progress(frame: pd.DataFrame) -> str:
    states = frame["status"].value_counts()
    others = ", ".join(f"{number} {str(state).lower()}" for state, number in states.items() if state != "DONE")
    return f"{states.get('DONE', 0)} of {len(frame)} runs are done" + (f"; {others}." if others else ".")


def _views(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """What is compared, how it was measured, and its rows: fine-tunes on each task, else probes, else pretrainings."""
    phases = set(frame["phase"])
    for task in summary.tasks(frame, "finetune"):
        rows = summary.finetuned(frame, task)
        yield task, summary.finetune_length(rows), rows
    for task in summary.tasks(frame, "probe") if "finetune" not in phases else []:
        rows = summary.probed(frame, task)
        yield task, f"linear probe on {rows['shots'].iloc[0]} images a class", rows
    if phases == {"pretrain"} and len(summary.pretrained(frame)):
        yield frame["dataset"].iloc[0], "right after pretraining", summary.pretrained(frame)


def _family_lines(what: str, rows: pd.DataFrame) -> Iterator[str]:
    """Each family's best variant and how its error changes with data, the best family first."""
    points = summary.curve(summary.longest(rows), "dataset_size")
    found = summary.best_by_family(points)
    for leader in found:
        own = points[(points["family"] == leader.family) & (points["variant"] == leader.variant)].dropna(subset=["mean"])
        images = own.sort_values("mean", kind="stable")["dataset_size"].iloc[0]
        yield (
            f"{family_name(leader.family)} on {what}: best error {percent(leader.mean)} ({leader.variant}, "
            f"pretrained on {count(images)} images){_trend(own)}."
        )
    for family in dict.fromkeys(points["family"]):
        if family not in {leader.family for leader in found}:
            yield f"{family_name(family)} on {what}: no result yet."


def _imported_lines(frame: pd.DataFrame) -> Iterator[str]:
    """How imported weights do: beside the curves, because what went into them is not known here."""
    rows = frame[frame["dataset_size"].isna()].fillna({"dataset_size": 0, "pretrain_flops": 0.0})
    for task in summary.tasks(rows, "finetune"):
        part = summary.finetuned(rows, task)
        for point in summary.best_by_family(summary.curve(part, "dataset_size")):
            yield (
                f"{family_name(point.family)} from imported weights on {task}, {summary.finetune_length(part)}: "
                f"best error {percent(point.mean)} ({point.variant}); what it cost to pretrain is not known."
            )


def _trend(line: pd.DataFrame) -> str:
    """How a variant's error changes with data, where it has results at two sizes."""
    first, last = line.iloc[0], line.iloc[-1]
    if first["dataset_size"] == last["dataset_size"]:
        return ""
    sizes = f"from {count(first['dataset_size'])} to {count(last['dataset_size'])} images"
    change = f"; {sizes} its error goes from {percent(first['mean'])} to {percent(last['mean'])}"
    if min(first["mean"], last["mean"]) <= 0:
        return change
    doubling = (last["mean"] / first["mean"]) ** (1 / math.log2(last["dataset_size"] / first["dataset_size"]))
    return f"{change}, a factor of {doubling:.2f} for each doubling"


def _size_lines(task: str, rows: pd.DataFrame) -> Iterator[str]:
    points = summary.curve(summary.longest(rows), "dataset_size")
    if points["family"].nunique() < 2:
        return
    sizes = sorted(points["dataset_size"].unique())
    for name, size in {"fewest": sizes[0], "most": sizes[-1]}.items() if len(sizes) > 1 else {"only": sizes[0]}.items():
        where = f"with the {name} images ({count(size)})" if len(sizes) > 1 else f"with {count(size)} images"
        yield _lead(task, where, points[points["dataset_size"] == size])


def _flops_lines(task: str, rows: pd.DataFrame) -> Iterator[str]:
    points = summary.flops_curve(rows)
    if points["family"].nunique() < 2:
        return
    common = summary.common_flops(points)
    if common is None:
        yield f"On {task} it cannot be told who leads at equal pretraining compute: the families share no range of FLOPs."
        return
    for flops in dict.fromkeys(common):
        yield _lead(task, f"with at most {flops_text(flops)} of pretraining", summary.up_to_flops(points, flops))


def _lead(task: str, where: str, points: pd.DataFrame) -> str:
    """Who leads among these points, with the numbers; who has none."""
    found = summary.best_by_family(points)
    missing = [family_name(name) for name in dict.fromkeys(points["family"]) if name not in {s.family for s in found}]
    if len(found) == 1 and not missing:
        return f"On {task} only {family_name(found[0].family)} was run {where}: {found[0]}."
    if len(found) < 2:
        return f"On {task} it cannot be told who leads {where}: no result for {' and '.join(missing)}."
    rest = f"; no result for {' and '.join(missing)}" if missing else ""
    numbers = ", ".join(f"{family_name(s.family)} {s}" for s in found)
    return f"On {task} {summary.leaders_text(summary.leaders(found), where)}: {numbers}{rest}."


def _plain(value: Any) -> str:
    """A fact as one line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)
