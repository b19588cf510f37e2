"""The columns of a CSV of published results: our name of each, and the constants and factors that a study gives.

Every error message names the file, the line and the column. Must not know of result rows.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.spec.values import as_count
from vitmodel.config.base import UserError, suggest

TEXTS = ("family", "variant", "dataset", "task", "phase", "length", "objective")
NUMBERS = (
    "epochs",
    "forward_flops",
    "pretrain_flops",
    "pretrain_exaflops",
    "finetune_epochs",
    "loss",
    "upstream_top1",
    "gpu_hours",
)
COUNTS = ("params", "dataset_size", "examples_seen", "resolution", "shots", "seed", "test_images")
OUTCOMES = {"top1": 1.0, "top1_percent": 100.0, "error": 1.0, "error_percent": 100.0}  # the largest value of each
KNOWN = (*TEXTS, *NUMBERS, *COUNTS, *OUTCOMES)
REQUIRED = (("family",), ("variant", "params"), ("dataset_size", "examples_seen"))  # one of each
ROUNDING = 1e-9  # results above their largest value, below 0 or next to a whole number by this much are rounding errors
LARGEST_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """What a study says of a table: our names to the table's, values of all rows, and factors to our units, by our names."""

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str | float] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A CSV that was read: its records with their line numbers, and our name of each column to the table's name."""

    path: Path
    records: tuple[tuple[int, dict[str, str]], ...]
    columns: Mapping[str, str]
    constants: Mapping[str, str]
    times: Mapping[str, float]

    def error(self, message: str, line: int, ours: str, allowed: str = "") -> UserError:
        """An error in a cell, or in a constant, which has no line."""
        if ours in self.constants:
            return UserError(message, file=str(self.path), field=f"constants.{ours}", allowed=allowed)
        return UserError(message, file=str(self.path), line=line, field=self.columns.get(ours, ours), allowed=allowed)

    def has(self, ours: str) -> bool:
        """Whether the table has this column, or a constant in its place."""
        return ours in self.columns or ours in self.constants

    def text(self, record: Mapping[str, str], ours: str) -> str:
        """The text of a cell or of the constant; empty if there is neither."""
        if ours in self.constants:
            return self.constants[ours]
        return record[self.columns[ours]].strip() if ours in self.columns else ""

    def number(self, line: int, ours: str, text: str) -> float:
        """A finite, non-negative number in our unit; counts may be written as 16k or 30M. Empty text: nan."""
        if not text:
            return math.nan
        try:
            value = float(as_count(text))
        except ValueError:
            raise self.error(f"{text!r} is not a number", line, ours) from None
        if not (math.isfinite(value) and value >= -ROUNDING):
            raise self.error(f"{text} is not allowed", line, ours, "a finite number, 0 or larger")
        return max(0.0, value) * self.times.get(ours, 1.0)

    def whole(self, line: int, ours: str, text: str) -> int | None:
        """A whole number; None if the text is empty. A number that was multiplied by a factor is rounded."""
        value = self.number(line, ours, text)
        if math.isnan(value):
            return None
        if ours not in self.times and not math.isclose(value, round(value), rel_tol=1e-12, abs_tol=ROUNDING):
            raise self.error(f"{value:g} is not a whole number", line, ours)
        return round(value)


def read_table(path: Path, mapped: Mapped) -> Table:
    """Read a CSV and match its columns with ours. Raises UserError for missing, unknown and duplicate columns."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"the file is larger than {LARGEST_BYTES >> 20} MiB", file=str(path))
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            records = tuple((reader.line_num, record) for record in reader)
            names = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read as CSV: {error}", file=str(path)) from None
    _require_once(path, names)
    for line, record in records:
        if record.get(""):
            raise UserError(f"the line has more than {len(names)} values", file=str(path), line=line)
    constants = {name: str(value).strip() for name, value in mapped.constants.items()}
    table = Table(
        path=path, records=records, columns=_columns(path, names, mapped), constants=constants, times=dict(mapped.times)
    )
    _check_times(table)
    for alternatives in REQUIRED:
        if not any(table.has(name) for name in alternatives):
            hint = (
                "if the table names a column differently, map it with `columns`; if it has one value, state it in `constants`"
            )
            needed = ", ".join(" or ".join(names) for names in REQUIRED)
            raise UserError(
                f"required column is missing; {hint}", file=str(path), line=1, field=alternatives[0], allowed=needed
            )
    return table


def _require_once(path: Path, names: Sequence[str]) -> None:
    if duplicate := next((name for name in names if names.count(name) > 1), ""):
        message = "the table has two columns with this name"
        raise UserError(message, file=str(path), line=1, field=duplicate, allowed="each name once")


def _columns(path: Path, names: list[str], mapped: Mapped) -> dict[str, str]:
    """Our name of each column to the table's name; constants are not columns."""

    def error(message: str, field: str, allowed: str) -> UserError:
        return UserError(message, file=str(path), line=1, field=field, allowed=allowed)

    for ours in (*mapped.columns, *mapped.constants, *mapped.times):
        if ours.partition(":")[0] not in KNOWN:
            raise error(f"unknown column{suggest(ours, list(KNOWN))}", ours, ", ".join(KNOWN))
    for theirs in mapped.columns.values():
        if theirs not in names:
            raise error(f"the table has no such column{suggest(theirs, names)}", theirs, ", ".join(names))
    used = set(mapped.columns.values())
    columns = dict(mapped.columns) | {name: name for name in names if name not in used and name.partition(":")[0] in KNOWN}
    for ours in mapped.constants:
        if ours in columns:
            raise error(f"the table has a column {columns[ours]!r} for this constant", ours, "a column or a constant")
        if ours.partition(":")[0] in OUTCOMES:
            raise error("a result cannot be a constant", ours, ", ".join(set(KNOWN) - set(OUTCOMES)))
    return columns


def _check_times(table: Table) -> None:
    for ours, factor in table.times.items():
        if ours in TEXTS or not table.has(ours):
            message = "a text column cannot be multiplied" if ours in TEXTS else "the table has no such column"
            numbers = [name for name in table.columns if name not in TEXTS]
            raise UserError(message, file=str(table.path), field=f"times.{ours}", allowed=", ".join(numbers))
        if not 0 < factor < math.inf:
            raise UserError(f"invalid factor {factor:g}", file=str(table.path), field=f"times.{ours}", allowed="above 0")
