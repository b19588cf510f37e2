"""Laws of any table: one fit for each group of rows, or the reason why there is none.

Reads a CSV file or a frame; the caller names the columns. Every mistake is a UserError with file, line and column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.laws.forms import FORMS
from orchestrator.laws.points import LawError
from orchestrator.laws.table_fits import AnyFit, FitChoices, Rows, check_choices, fit_rows, fit_with_shared_floor
from orchestrator.laws.tolerance import snap
from orchestrator.results import summary
from vitmodel.config.base import UserError, suggest


@dataclass(frozen=True, kw_only=True)
class GroupLaw:
    """A group of rows: its values in the grouping columns, and its law or the reason why it has none."""

    keys: dict[str, str]
    law: AnyFit | None
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
    is_known = frame["error"].notna() | frame["upstream_loss"].notna()  # a language model has a loss only
    done = frame[(frame["status"] == "DONE") & is_known]
    epochs = done["finetune_epochs"].map(lambda e: "" if pd.isna(e) else f", {e:g} epochs").astype(str)  # also without rows
    shots = done["shots"].map(lambda n: "" if pd.isna(n) else f", {summary.shots_text(n)}").astype(str)
    return done.assign(what=(done["task"] + epochs + shots).where(done["task"] != "", "upstream"))


def fit_groups(
    frame: pd.DataFrame, *, x: str, y: str, form: str = "auto", by: Sequence[str] = (), choices: FitChoices | None = None
) -> list[GroupLaw]:
    """A law for every group of equal `by`, in the order of the rows. `choices` replace `form`.

    x: a column, or two with a comma: size and data for form L(N,D), compute and size for IsoFLOP. With a shared floor, groups
    that differ only in the first column of `by` share it. Raises UserError for unknown columns, forms and wrong options.
    """
    chosen = choices or FitChoices(form=form)
    _check_form(chosen.form)
    check_choices(chosen)
    names = [name.strip() for name in x.split(",")]
    if len(names) != chosen.columns:
        allowed = "one column" if chosen.columns == 1 else "COMPUTE,SIZE" if chosen.is_isoflop else "SIZE,DATA"
        what = "--isoflop" if chosen.is_isoflop else f"form {chosen.form}"
        raise UserError(f"{len(names)} column(s) given, {what} needs {chosen.columns}", field="--x", allowed=allowed)
    extra = {"--block": [chosen.block or ""], "--flops-per-example": [chosen.flops_column or ""]}
    for option, columns in {"--x": names, "--y": [y], "--by": list(by), **extra}.items():
        _check_columns(frame, option, [column for column in columns if column])
    grouping = [frame[name] for name in by]
    keys = [pd.Series(snap(values), index=frame.index) if values.dtype.kind == "f" else values for values in grouping]
    parts = list(frame.groupby(keys, sort=False, dropna=False)) if by else [((), frame)]
    groups = [(dict(zip(by, map(str, key), strict=True)), _rows(part, names, y, chosen)) for key, part in parts]
    return _share_floors(groups, chosen) if chosen.share_floor else [_fit_group(keys, rows, chosen) for keys, rows in groups]


def _check_form(form: str) -> None:
    if form != "auto" and form not in FORMS:
        names = ["auto", *FORMS]
        raise UserError(f"unknown form {form!r}{suggest(form, names)}", field="--form", allowed=", ".join(names))


def _check_columns(frame: pd.DataFrame, option: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in frame.columns:
            columns = [str(column) for column in frame.columns]
            message = f"unknown column {name!r}{suggest(name, columns)}"
            file = str(frame.attrs.get("file", ""))
            raise UserError(message, file=file, field=option, allowed=", ".join(columns))


def _fit_group(keys: dict[str, str], rows: Rows, choices: FitChoices) -> GroupLaw:
    try:
        return GroupLaw(keys=keys, law=fit_rows(rows, choices), refused="")
    except LawError as error:
        return GroupLaw(keys=keys, law=None, refused=_reason(error))


def _share_floors(groups: list[tuple[dict[str, str], Rows]], choices: FitChoices) -> list[GroupLaw]:
    """Laws in the order of the groups; groups whose keys differ only in the first one share a floor."""
    shared: dict[tuple[str, ...], dict[str, Rows]] = {}
    for keys, rows in groups:
        first, *others = keys.values() or [""]
        shared.setdefault(tuple(others), {})[first] = rows
    fitted: dict[tuple[str, ...], GroupLaw] = {}
    for rest, members in shared.items():
        try:
            fits, refused = dict[str, AnyFit](fit_with_shared_floor(members, choices)), ""
        except LawError as error:
            fits, refused = {}, _reason(error)
        fitted |= {(first, *rest): GroupLaw(keys={}, law=fits.get(first), refused=refused) for first in members}
    results = [fitted[tuple(keys.values()) or ("",)] for keys, _ in groups]
    return [GroupLaw(keys=keys, law=law.law, refused=law.refused) for (keys, _), law in zip(groups, results, strict=True)]


def _reason(error: LawError) -> str:
    return error.message + (f"; needs {error.allowed}" if error.allowed else "")


def _rows(part: pd.DataFrame, x: Sequence[str], y: str, choices: FitChoices) -> Rows:
    """The numbers of a group; rows without one of them are gaps, such as runs without a result."""
    columns = {name: _numbers(part, name) for name in (*x, y, *([choices.flops_column] if choices.flops_column else []))}
    known = np.isfinite(np.column_stack(list(columns.values()))).all(axis=1)
    return Rows(
        x=np.column_stack([columns[name][known] for name in x]),
        y=columns[y][known],
        blocks=tuple(part[choices.block].astype(str)[known]) if choices.block else None,
        flops=columns[choices.flops_column][known] if choices.flops_column else None,
    )


def _numbers(rows: pd.DataFrame, name: str) -> np.ndarray:
    values = pd.to_numeric(rows[name], errors="coerce")
    wrong = rows[values.isna() & rows[name].notna()]
    if len(wrong):
        line = int(wrong.index[0]) + 2  # lines count from one, and the first is the header
        message = f"{wrong[name].iloc[0]!r} is not a number"
        raise UserError(message, file=str(rows.attrs.get("file", "")), line=line, field=name, allowed="a number, or empty")
    return values.to_numpy(dtype=float)
