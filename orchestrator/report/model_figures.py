"""Figures of a trained ViT from the arrays of `vitscale inspect`: filters, position embeddings, attention distance, rollout.

Each function takes numpy arrays and returns a Figure. Nothing is shown, saved or changed globally. Must not know of models.
Shapes: N filters, P patch size, R rows and C columns of patches, L layers, H heads, B images, S image size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from orchestrator.report.style import GREY, GRID, INK

Array = NDArray[np.float32]
DOT = "#0072B2"
FILTER_COLUMNS = 7
GAP, TILE_PIXELS = 3, 28  # of the position embedding mosaic
COLOUR_MAP = "viridis"


def filters(filters_NPP3: Array, name: str = "") -> Figure:
    """Principal components of the patch embedding (N, P, P, 3), each scaled to its range (ViT paper, Figure 7, left)."""
    rows = -(-len(filters_NPP3) // FILTER_COLUMNS)
    low = filters_NPP3.min(axis=(1, 2, 3), keepdims=True)
    span = np.maximum(filters_NPP3.max(axis=(1, 2, 3), keepdims=True) - low, 1e-12)
    tiles = np.ones((rows * FILTER_COLUMNS, *filters_NPP3.shape[1:]), np.float32)
    tiles[: len(filters_NPP3)] = (filters_NPP3 - low) / span
    side = tiles.shape[1]
    gap = max(1, side // 8)
    mosaic = np.ones((rows * (side + gap) - gap, FILTER_COLUMNS * (side + gap) - gap, 3), np.float32)
    for number, tile in enumerate(tiles):
        top, left = (number // FILTER_COLUMNS) * (side + gap), (number % FILTER_COLUMNS) * (side + gap)
        mosaic[top : top + side, left : left + side] = tile
    subtitle = f"first {len(filters_NPP3)} principal components"
    aspect = mosaic.shape[0] / mosaic.shape[1]
    figure, axes = _panel(f"RGB embedding filters{_suffix(name)}", subtitle, aspect, left=0.02, bottom=0.02)
    axes.imshow(mosaic, interpolation="nearest")
    axes.set_axis_off()
    return figure


def positions(similarity_RCRC: Array, name: str = "") -> Figure:
    """Cosine similarity of each patch's position embedding to all others (R, C, R, C) (ViT paper, Figure 7, centre)."""
    rows, columns = similarity_RCRC.shape[:2]
    scale = -(-TILE_PIXELS // max(rows, columns))  # scaled up, so that gaps between tiles with few cells are thin
    enlarged = similarity_RCRC.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = (rows * scale + GAP), (columns * scale + GAP)
    tiles = np.full((rows, columns, height, width), np.nan, np.float32)
    tiles[:, :, :-GAP, :-GAP] = enlarged
    mosaic = tiles.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)[:-GAP, :-GAP]
    subtitle = "one tile per patch: its similarity to all patches"
    figure, axes = _panel(f"Position embedding similarity{_suffix(name)}", subtitle, rows / columns, right=0.83)
    image = axes.imshow(mosaic, cmap=COLOUR_MAP, vmin=min(0.0, float(np.nanmin(mosaic))), vmax=1, interpolation="nearest")
    axes.set(xlabel="column of the patch", ylabel="row of the patch")
    for axis, count, step in ((axes.xaxis, columns, width), (axes.yaxis, rows, height)):
        shown = np.arange(0, count, -(-count // 8))
        axis.set_ticks(shown * step + (step - GAP - 1) / 2, [str(number + 1) for number in shown])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    box = axes.get_position()
    place = figure.add_axes((box.x1 + 0.025, box.y0, 0.025, box.height))
    bar = figure.colorbar(image, cax=place, label="cosine similarity", ticks=MaxNLocator(5))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9.5, colors=INK)
    return figure


def distances(distance_LH: Array, image_size: int, images: int, name: str = "") -> Figure:
    """Mean attention distance in pixels of each head (L, H) by layer (ViT paper, Figure 7, right, and Figure 11)."""
    layers, heads = distance_LH.shape
    averaged = f"{images} image{'s' if images != 1 else ''} of {image_size} px"
    subtitle = f"{heads} heads per layer, {averaged}; line: mean of the heads"
    figure, axes = _panel(f"Mean attention distance{_suffix(name)}", subtitle, 0.7, left=0.12, bottom=0.11)
    depth = np.arange(1, layers + 1)
    axes.plot(depth, distance_LH.mean(axis=1), color=GREY, linewidth=1.4, zorder=1)
    axes.scatter(np.repeat(depth, heads), distance_LH.ravel(), s=26, color=DOT, edgecolor="white", linewidth=0.6, zorder=2)
    axes.set(xlabel="layer", ylabel="mean attention distance (pixels)", ylim=(0, 1.08 * float(distance_LH.max())))
    axes.set_xlim(0.6, layers + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(min(layers, 12), integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure


def rollout(images_BSS3: NDArray[np.uint8], rollout_BRC: Array, name: str = "") -> Figure:
    """A row per image: the image, its attention rollout (B, R, C), the image weighted by it (ViT paper, Figure 6)."""
    count = len(images_BSS3)
    figure = Figure(figsize=(6.3, 0.78 + 2.12 * count), facecolor="white")
    height, subtitle = figure.get_figheight(), "left: image; centre: attention rollout; right: image weighted by the rollout"
    _add_titles(figure, f"Attention rollout{_suffix(name)}", subtitle, height)
    for number, (image, weights) in enumerate(zip(images_BSS3, rollout_BRC, strict=True)):
        bottom = 1 - (0.7 + 2.12 * (number + 1)) / height
        for column, panel in enumerate((image, weights, weighted_image(image, weights))):
            axes = figure.add_axes((0.02 + 0.325 * column, bottom, 0.31, 0.31 * 6.3 / height))
            axes.imshow(panel, cmap=COLOUR_MAP, vmin=0.0 if column == 1 else None, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
    return figure


def weighted_image(image_SS3: NDArray[np.uint8], weights_RC: Array) -> NDArray[np.uint8]:
    """The image, darker where attention is low. The weights are interpolated bilinearly to the image's size."""
    from PIL import Image

    low, high = float(weights_RC.min()), float(weights_RC.max())
    share = (weights_RC - low) / max(high - low, 1e-12)
    height, width = image_SS3.shape[:2]
    mask = np.asarray(Image.fromarray(share.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    return (image_SS3 * (0.12 + 0.88 * mask.clip(0, 1))[..., None]).round().astype(np.uint8)


def _panel(
    title: str, subtitle: str, aspect: float, *, left: float = 0.1, right: float = 0.98, bottom: float = 0.1
) -> tuple[Figure, Axes]:
    """An empty panel with title and subtitle above it; `aspect` is the panel's height divided by its width."""
    width = 5.6
    height = 0.75 + aspect * (right - left) * width + bottom * width
    figure = Figure(figsize=(width, height), facecolor="white")
    _add_titles(figure, title, subtitle, height)
    base = bottom * width / height
    axes = figure.add_axes((left, base, right - left, 1 - 0.7 / height - base))
    axes.tick_params(labelsize=9.5, colors=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=10.5, color=INK)
    return figure, axes


def _add_titles(figure: Figure, title: str, subtitle: str, height: float) -> None:
    plain: dict[str, Any] = {"va": "top", "parse_math": False}  # a dollar sign in a name does not start a formula
    figure.text(0.02, 1 - 0.09 / height, title, fontsize=12.5, fontweight="bold", color=INK, **plain)
    figure.text(0.02, 1 - 0.38 / height, subtitle, fontsize=9.5, color=GREY, **plain)


def _suffix(name: str) -> str:
    return f", {name}" if name else ""
