"""How well the laws extrapolate: real learning curves fitted on their first half, scored on the second.

    python bench/laws.py [CSV] [--form auto --form M2 ...] [--curves]

Reads the CSV of bench/data (or another half of the same benchmark) and prints a row a form: the RMSE of log error on
Training == 0, mean over curves; its bias; the seconds a fit takes; how many held-out points the 90% prediction bands hold; and
the RMSE by task and by model, where a form that was tuned to these curves would be uneven.
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
FORMS = ("auto", "M1", "M2", "M3", "zhai", "M4", "bnsl1", "bnsl2")
TARGETS = "to reach: .0310 over the whole benchmark, aim .0280; published M4 .0415, BNSL .0406, a trained transformer .0280"
LIMITS = "at most 0.1 s a fit for M1 to M3, 1 s for the rest"


@dataclass(frozen=True, kw_only=True)
class Score:
    """One form on one curve: RMSE and bias of log error ahead, seconds of the fit, share of points in the 90% band."""

    task: str
    model: str
    chosen: str
    rmse: float
    bias: float
    seconds: float
    covered: float


def score(form: str, task: str, model: str, curve: pd.DataFrame) -> Score:
    """Fit on Training == 1, forecast Training == 0."""
    past, ahead = (curve[curve["Training"] == flag] for flag in (1, 0))
    x, y = ahead["Seen Examples"].to_numpy(), ahead["Loss"].to_numpy()
    begin = time.perf_counter()
    law = laws.fit(past["Seen Examples"], past["Loss"], form)
    seconds = time.perf_counter() - begin
    miss = np.log(law.predict(x)) - np.log(y)
    low, high = law.interval(x, 0.9, "prediction")
    return Score(
        task=task,
        model=model,
        chosen=law.form,
        rmse=float(np.sqrt(np.mean(miss**2))),
        bias=float(miss.mean()),
        seconds=seconds,
        covered=float(((low <= y) & (y <= high)).mean()),
    )


def scores(form: str, frame: pd.DataFrame) -> pd.DataFrame:
    """A row a curve."""
    return pd.DataFrame([score(form, str(t), str(m), curve) for (t, m), curve in frame.groupby(["Task", "Model"])])


def row(form: str, found: pd.DataFrame) -> str:
    """The line of a form: everything about it, then the range of its means over tasks and over models."""
    means = [found.groupby(key)["rmse"].mean() for key in ("task", "model")]
    spans = "".join(f"{mean.min():8.4f} to {mean.max():.4f}" for mean in means)
    seconds = f"{found['seconds'].median():8.3f}{found['seconds'].max():8.3f}"
    head = f"{form:8}{found['rmse'].mean():8.4f}{found['bias'].mean():+9.4f}"
    return f"{head}{seconds}{100 * found['covered'].mean():7.0f}%{spans}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("csv", nargs="?", type=Path, default=DATA)
    parser.add_argument("--form", action="append", choices=FORMS, help="may be given again; all by default")
    parser.add_argument("--curves", action="store_true", help="also a line for every curve")
    options = parser.parse_args()
    frame = pd.read_csv(options.csv)
    frame = frame.sort_values(["Task", "Model", "Seen Examples"], kind="stable")
    print(f"{frame.groupby(['Task', 'Model']).ngroups} curves of {options.csv}; {TARGETS}; {LIMITS}")
    print("form        rmse     bias  s median    max  in 90%   by task             by model")
    for form in options.form or FORMS:
        found = scores(form, frame)
        print(row(form, found), flush=True)
        if form == "auto":
            print(f"         chosen: {', '.join(f'{name} {n}' for name, n in found['chosen'].value_counts().items())}")
        if options.curves:
            print(found.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
