"""Tables on the terminal: wrapped to its width there, plain text at full width in files and pipes."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

LEAST_COLUMNS = 80


def print_table(table: Table) -> None:
    """Print a table. Its cells are printed as they are, without markup."""
    console = Console(highlight=False, markup=False, emoji=False)
    widths = console.measure(table, options=console.options.update_width(10_000))
    console.width = max(console.width, LEAST_COLUMNS) if console.is_terminal else widths.maximum
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)
