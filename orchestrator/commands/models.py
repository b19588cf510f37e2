"""The verb on architectures: every named variant, its parameters and its FLOPs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from orchestrator.commands.options import Json
from vitmodel.config.base import UserError
from vitmodel.config.variants import NAMED_VARIANTS
from vitmodel.flops.count import Listed, list_variants

app = typer.Typer()
LEAST_COLUMNS = 100

ImageSize = Annotated[int, typer.Option("--image-size", help="pixels per side")]


@app.command()
def models(image_size: ImageSize = 224, as_json: Json = False) -> None:
    """List every named model: parameters, FLOPs of one image's forward pass (2 x MAC), 1000 classes, source."""
    rows = list_variants(image_size) if image_size > 0 else []
    if not rows:
        raise UserError(f"no named model takes images of {image_size} pixels", field="--image-size", allowed="such as 224")
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return
    _print_table(rows, image_size)


def _print_table(rows: list[Listed], image_size: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=f"{image_size} px, 1000 classes; FLOPs of one image forward, 2 x MAC")
    for name in ("variant", "family", "params", "GFLOPs", "source"):
        table.add_column(name, justify="right" if name in ("params", "GFLOPs") else "left", no_wrap=True)
    previous = rows[0].family
    for row in rows:
        if row.family != previous:
            table.add_section()
        previous = row.family
        table.add_row(row.variant, row.family, f"{row.params:,}", f"{row.forward_flops / 1e9:,.2f}", row.source)
    console = Console(highlight=False)
    console.width = max(console.width, LEAST_COLUMNS)  # a cut table tells nothing
    console.print(table)
    left_out = sorted(set(NAMED_VARIANTS) - {row.variant for row in rows})
    if left_out:
        console.print(f"not for images of {image_size} px: {', '.join(left_out)}")
    console.print("Other sizes, patches and widths are built from the same names, such as S/8 or R50x4; docs/models.md.")
