"""The report of a study as one HTML page: verdicts, summary, curves, laws, results, cost, failures, provenance.

Reads the results frame, the findings and a dict of facts; writes report.html and its figures. The page is self-contained:
it loads nothing, and its content security policy allows only its own scripts, by hash. All text from files is escaped by
the template, or inserted as text by the script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.report import answer_tables, interactive, law_charts, plots, run_charts, tables
from orchestrator.report.chart import Chart
from orchestrator.report.sentences import summary_sentences
from orchestrator.verdicts.answers import Findings
from vitmodel.files import write_bytes

PLACED_FACTS = ("title", "note", "study_yaml", "resolved", "planned", "wall_seconds", "training_seconds", "slots")
CURVES_NOTE = (
    "Hover over a point to see its run, model size, data, compute and top-1. Click a name in a legend to hide it. Drag to zoom."
)


def write_page(frame: pd.DataFrame, folder: Path, facts: dict[str, Any], findings: Findings | None = None) -> Path:
    """Write report.html atomically, and figures/NAME.svg and .png; returns the page's path.

    All keys of `facts` are optional: title, note, study_yaml, resolved (the study with its defaults), planned (the totals of
    plan.json, with the price of a GPU-hour and hours by phase); wall_seconds, training_seconds and slots (concurrent worker
    groups) of this execution. All other keys (storage, git, packages and others from `results.provenance`) are shown under
    Provenance.
    """
    drawn = _charts(frame, findings)
    scripts = [Markup(_template(name)) for name in ("plotly-basic.min.js", "report.js")]
    html = (
        _environment()
        .get_template("report.html")
        .render(
            title=facts.get("title") or (frame["study"].iloc[0] if len(frame) else "study"),
            note=facts.get("note", ""),
            study_yaml=facts.get("study_yaml", ""),
            resolved=json.dumps(facts["resolved"], indent=1) if facts.get("resolved") else "",
            **answer_tables.tables_of_findings(findings),
            summary=summary_sentences(frame),
            curves_note=CURVES_NOTE,
            figures=[_figure(chart, folder / "figures") for chart in drawn],
            charts=[interactive.figure(chart) for chart in drawn],
            tables=tables.results(frame),
            runs=tables.every_run(frame),
            costs=tables.costs(frame, facts),
            phases=tables.phases(frame, facts.get("planned", {}).get("phases", {})),
            failures=tables.failures(frame),
            unfinished=int(frame["status"].isin(tables.UNFINISHED).sum()),
            provenance={key: _as_text(value) for key, value in facts.items() if key not in PLACED_FACTS},
            style=Markup(_template("report.css")),
            scripts=scripts,
            policy=_policy(scripts),
        )
    )
    write_bytes(folder / "report.html", html.encode())
    return folder / "report.html"


def _charts(frame: pd.DataFrame, findings: Findings | None) -> list[Chart]:
    """Charts with laws first, then those of the frame that they do not replace."""
    frame_charts = list(run_charts.charts_of_frame(frame))
    if findings is None:
        return frame_charts
    replaced = law_charts.replaced_charts(findings)
    return [*law_charts.charts_of_findings(findings), *(chart for chart in frame_charts if chart.name not in replaced)]


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
    """The content security policy: run these scripts, show embedded images, load and send nothing."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'"


def _figure(chart: Chart, folder: Path) -> dict[str, str]:
    """Titles, alternative text and a static image of a chart, for print and for browsers without scripts."""
    figure = plots.draw(chart)
    image = base64.b64encode(plots.save(figure, folder, chart.name)).decode()
    return {
        "title": chart.title,
        "subtitle": chart.subtitle,
        "alt_text": plots.alt_text(figure),
        "source": f"data:image/svg+xml;base64,{image}",
    }


def _as_text(value: Any) -> str:
    """A fact as one line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_as_text(item)}" for key, item in value.items())
    return ", ".join(map(_as_text, value)) if isinstance(value, list | tuple) else str(value)
