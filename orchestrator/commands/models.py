"""The command `models`: every named architecture, its parameters and its FLOPs."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Annotated

import typer

from orchestrator.commands.options import Json
from vitmodel.config.base import UserError
from vitmodel.config.models import NAMED_VARIANTS
from vitmodel.flops.count import Listed, list_variants

app = typer.Typer()

ImageSize = Annotated[int, typer.Option("--image-size", metavar="PIXELS", min=1, help="Side of a square image, in pixels.")]


@app.command()
def models(image_size: ImageSize = 224, as_json: Json = False) -> None:
    """List the named models: parameters, FLOPs, source.

    FLOPs are of the forward pass of one image, 2 for each multiply-accumulate. The head has 1000 classes. A study may also
    use other sizes, patches and widths of these families, such as S/8 or R50x4 (docs/models.md).
    """
    rows = list_variants(image_size)
    if not rows:
        raise UserError(f"no named model takes images of {image_size} pixels", field="--image-size", allowed="such as 224")
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return
    _print_table(rows, image_size)


def _print_table(rows: list[Listed], image_size: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from orchestrator.commands.console import print_table

    print(f"images of {image_size} px, 1000 classes; GFLOPs of one image forward, 2 x MAC")
    table = Table(box=SIMPLE_HEAD)
    for name in ("variant", "family", "params", "GFLOPs", "source"):
        is_number = name in ("params", "GFLOPs")
        table.add_column(name, justify="right" if is_number else "left", no_wrap=name != "source")
    for row, following in pairwise([*rows, None]):
        assert row is not None
        is_last = following is None or following.family != row.family
        cells = row.variant, row.family, f"{row.params:,}", f"{row.forward_flops / 1e9:,.2f}", row.source
        table.add_row(*cells, end_section=is_last)
    print_table(table)
    if left_out := sorted(set(NAMED_VARIANTS) - {row.variant for row in rows}):
        print(f"not for images of {image_size} px: {', '.join(left_out)}")
