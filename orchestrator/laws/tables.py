"""Laws of any table: one law for each group of rows, or the reason why there is none.

Reads a CSV file or a frame; the caller names the columns. Every mistake is a UserError with file, line and column.
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
from orchestrator.laws.tolerance import snap
from orchestrator.results import summary
from vitmodel.config.base import UserError, suggest


@dataclass(frozen=True, kw_only=True)
class GroupLaw:
    """A group of rows: its values in the grouping columns, and its law or the reason why it has none."""

    keys: dict[str, str]
    law: Law | None
    refused: str


def read(path: Path) -> pd.DataFrame:
    """A CSV file as a frame of text and numbers; `attrs["file"]` is its name, for messages."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"cannot be read as CSV: {error}", file=str(path)) from None
    frame.attrs["file"] = str(path)
    return frame


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """A study's finished rows with a column `what` (task, fine-tune epochs, shots): rows of equal `what` can form a curve."""
    done = summary.finished(frame)
    epochs = done["finetune_epochs"].map(lambda e: "" if pd.isna(e) else f", {e:g} epochs")
    shots = done["shots"].map(lambda n: "" if pd.isna(n) else f", {n} shots")
    return done.assign(what=(done["task"] + epochs + shots).where(done["task"] != "", "upstream"))


def fit_groups(frame: pd.DataFrame, *, x: str, y: str, form: str, by: Sequence[str]) -> list[GroupLaw]:
    """A law for every group of equal `by`, in the order of the rows. Raises UserError for unknown columns or forms."""
    file = str(frame.attrs.get("file", ""))
    if form != "auto" and (form not in FORMS or FORMS[form].columns != 1):
        names = ["auto", *(name for name, known in FORMS.items() if known.columns == 1)]
        raise UserError(f"unknown form {form!r}{suggest(form, names)}", field="--form", allowed=", ".join(names))
    for option, names in (("--x", [x]), ("--y", [y]), ("--by", list(by))):
        for name in names:
            if name not in frame.columns:
                columns = [str(column) for column in frame.columns]
                message = f"unknown column {name!r}{suggest(name, columns)}"
                raise UserError(message, file=file, field=option, allowed=", ".join(columns))
    grouping = [frame[name] for name in by]
    keys = [pd.Series(snap(values), index=frame.index) if values.dtype.kind == "f" else values for values in grouping]
    groups = list(frame.groupby(keys, sort=False, dropna=False)) if by else [((), frame)]
    return [_fit_group(dict(zip(by, map(str, key), strict=True)), rows, x, y, form) for key, rows in groups]


def as_data(group: GroupLaw) -> dict[str, Any]:
    """A group as plain data for JSON."""
    return {**group.keys, "law": None if group.law is None else law_as_data(group.law), "refused": group.refused}


def _fit_group(keys: dict[str, str], rows: pd.DataFrame, x: str, y: str, form: str) -> GroupLaw:
    values = {name: _numbers(rows, name) for name in (x, y)}
    is_known = np.isfinite(values[x]) & np.isfinite(values[y])  # a run without a result is a gap
    try:
        return GroupLaw(keys=keys, law=laws.fit(values[x][is_known], values[y][is_known], form), refused="")
    except LawError as error:
        return GroupLaw(keys=keys, law=None, refused=error.message + (f"; needs {error.allowed}" if error.allowed else ""))


def _numbers(rows: pd.DataFrame, name: str) -> np.ndarray:
    values = pd.to_numeric(rows[name], errors="coerce")
    wrong = rows[values.isna() & rows[name].notna()]
    if len(wrong):
        line = int(wrong.index[0]) + 2  # lines count from one, and the first is the header
        message = f"{wrong[name].iloc[0]!r} is not a number"
        raise UserError(message, file=str(rows.attrs.get("file", "")), line=line, field=name, allowed="a number, or empty")
    return values.to_numpy(dtype=float)
