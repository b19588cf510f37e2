"""Extrapolation error of the laws: real learning curves, fitted on their first half and scored on their second half.

    python bench/laws.py [CSV] [--form auto --form M2 ...] [--curves]

Reads the CSV of bench/data (or another part of the same benchmark) and prints one row per form: the RMSE of log error on
Training == 0, mean over curves; its bias; the seconds of a fit; the share of held-out points inside the 90% prediction bands;
and the RMSE by task and by model, which would be uneven for a form that was tuned to these curves.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator import laws

DATA = Path(__file__).parent / "data" / "learning_curves.csv"
GROWTH = 2.0  # of the weights of a single form: these are extrapolations
FORMS = ("auto", "M1", "M2", "M3", "zhai", "M4", "bnsl1", "bnsl2")
TARGETS = "target: .0290 over all 72 curves, .0300 on the unseen half; published M4 .0415, BNSL .0406, a transformer .0280"
LIMITS = "limit: 0.1 s per fit for M1 to M3, 1 s for the others"


@dataclass(frozen=True, kw_only=True)
class Score:
    """One form on one curve: RMSE and bias of log error on held-out points, seconds of the fit, share in the 90% band."""

    domain: str
    task: str
    model: str
    chosen: str
    rmse: float
    bias: float
    seconds: float
    covered: float


def score(form: str, names: tuple[str, str, str], curve: pd.DataFrame) -> Score:
    """Fit on Training == 1, forecast Training == 0."""
    fitted, held_out = (curve[curve["Training"] == flag] for flag in (1, 0))
    x, y = held_out["Seen Examples"].to_numpy(), held_out["Loss"].to_numpy()
    begin = time.perf_counter()
    law = laws.fit(fitted["Seen Examples"], fitted["Loss"], form, growth=None if form == "auto" else GROWTH)
    seconds = time.perf_counter() - begin
    errors = np.log(law.predict(x)) - np.log(y)
    low, high = law.interval(x, 0.9, "prediction")
    return Score(
        domain=names[0],
        task=names[1],
        model=names[2],
        chosen=law.form,
        rmse=float(np.sqrt(np.mean(errors**2))),
        bias=float(errors.mean()),
        seconds=seconds,
        covered=float(((low <= y) & (y <= high)).mean()),
    )


def scores(form: str, frame: pd.DataFrame) -> pd.DataFrame:
    """One row per curve."""
    groups = frame.groupby(["Domain", "Task", "Model"])
    return pd.DataFrame([score(form, tuple(map(str, names)), curve) for names, curve in groups])


def row(form: str, table: pd.DataFrame) -> str:
    """The line of a form: its means, then the range of its means over tasks and over models."""
    means = [table.groupby(key)["rmse"].mean() for key in ("task", "model")]
    spans = "".join(f"{mean.min():8.4f} to {mean.max():.4f}" for mean in means)
    seconds = f"{table['seconds'].median():8.3f}{table['seconds'].max():8.3f}"
    head = f"{form:8}{table['rmse'].mean():8.4f}{table['bias'].mean():+9.4f}"
    return f"{head}{seconds}{100 * table['covered'].mean():7.0f}%{spans}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("csv", nargs="?", type=Path, default=DATA)
    parser.add_argument("--form", action="append", choices=FORMS, help="may be repeated (default: all)")
    parser.add_argument("--curves", action="store_true", help="also print a line for every curve")
    options = parser.parse_args()
    frame = pd.read_csv(options.csv)
    frame = frame.sort_values(["Task", "Model", "Seen Examples"], kind="stable")
    print(f"{frame.groupby(['Domain', 'Task', 'Model']).ngroups} curves of {options.csv}; {TARGETS}; {LIMITS}")
    print("form        rmse     bias  s median    max  in 90%   by task             by model")
    for form in options.form or FORMS:
        table = scores(form, frame)
        print(row(form, table), flush=True)
        if form == "auto":
            print(f"         parameters: {', '.join(f'{name} {n}' for name, n in table['chosen'].value_counts().items())}")
        if table["domain"].nunique() > 1:
            means = table.groupby("domain")["rmse"].mean()
            print(f"         by domain: {', '.join(f'{name} {mean:.4f}' for name, mean in means.items())}")
        if options.curves:
            print(table.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
