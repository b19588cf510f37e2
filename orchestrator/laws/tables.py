"""Laws of any table: groups of rows, a law or the reason for none in each.

Reads a CSV or a frame; names of columns are the caller's. Every mistake is a UserError with file, line and column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchestrator import laws
from orchestrator.laws import FORMS, Law, LawError
from orchestrator.laws.render import law_as_data
from orchestrator.results import summary
from vitmodel.config.base import UserError, suggest


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One group of rows: the values that tell it apart, and its law or why it has none."""

    keys: dict[str, str]
    law: Law | None
    refused: str


def read(path: Path) -> pd.DataFrame:
    """A CSV as it is, all columns as text or numbers; `attrs["file"]` keeps its name for messages."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"cannot be read as CSV: {error}", file=str(path)) from None
    frame.attrs["file"] = str(path)
    return frame


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """A study's finished rows with a column `what`: only rows of equal `what` (task, fine-tune epochs, shots) make a curve."""
    done = summary.finished(frame)
    epochs = done["finetune_epochs"].map(lambda e: "" if pd.isna(e) else f", {e:g} epochs")
    shots = done["shots"].map(lambda n: "" if pd.isna(n) else f", {n} shots")
    return done.assign(what=(done["task"] + epochs + shots).where(done["task"] != "", "upstream"))


def fit_groups(frame: pd.DataFrame, *, x: str, y: str, form: str, by: Sequence[str]) -> list[Fitted]:
    """A law for every group of equal `by`, in the order of the rows. Raises UserError for columns or forms that are none."""
    file = str(frame.attrs.get("file", ""))
    if form != "auto" and (form not in FORMS or FORMS[form].columns != 1):
        names = ["auto", *(name for name, one in FORMS.items() if one.columns == 1)]
        raise UserError(f"no form {form!r}{suggest(form, names)}", field="--form", allowed=", ".join(names))
    for option, names in (("--x", [x]), ("--y", [y]), ("--by", list(by))):
        for name in names:
            if name not in frame.columns:
                known = [str(column) for column in frame.columns]
                raise UserError(f"no column {name!r}{suggest(name, known)}", file=file, field=option, allowed=", ".join(known))
    groups = [((), frame)] if not by else list(frame.groupby(list(by), sort=False, dropna=False))
    return [_fitted(dict(zip(by, map(str, key), strict=True)), rows, x, y, form) for key, rows in groups]


def as_data(one: Fitted) -> dict[str, Any]:
    """A group as plain data for JSON."""
    return {**one.keys, "law": None if one.law is None else law_as_data(one.law), "refused": one.refused}


def _fitted(keys: dict[str, str], rows: pd.DataFrame, x: str, y: str, form: str) -> Fitted:
    values = {name: _numbers(rows, name) for name in (x, y)}
    known = np.isfinite(values[x]) & np.isfinite(values[y])  # a run without a result is a gap
    try:
        return Fitted(keys=keys, law=laws.fit(values[x][known], values[y][known], form), refused="")
    except LawError as error:
        return Fitted(keys=keys, law=None, refused=error.message + (f"; needs {error.allowed}" if error.allowed else ""))


def _numbers(rows: pd.DataFrame, name: str) -> np.ndarray:
    values = pd.to_numeric(rows[name], errors="coerce")
    wrong = rows[values.isna() & rows[name].notna()]
    if len(wrong):
        line = int(wrong.index[0]) + 2  # a head, and lines count from one
        raise UserError(f"{wrong[name].iloc[0]!r} is no number", file=str(rows.attrs.get("file", "")), line=line, field=name)
    return values.to_numpy(dtype=float)
