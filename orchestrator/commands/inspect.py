"""The command `inspect`: what a ViT has learned, as figures and arrays, by vitmodel.inspect and report.model_figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from orchestrator.commands.files import writing
from orchestrator.commands.options import StoragePath
from orchestrator.prepare import storage_root
from orchestrator.store.find import FoundWeights, find_weights
from orchestrator.store.layout import Store
from vitmodel.config.base import UserError
from vitmodel.config.models import ModelConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from vitmodel.models.classifier import Classifier

app = typer.Typer()

DISTANCE_IMAGES = 128  # that attention distance is averaged over (ViT paper, appendix D.7)
BATCH = 8  # images whose attention is held at once
ARRAYS_FILE = "arrays.npz"

RunOrFile = Annotated[
    str, typer.Argument(metavar="RUN_OR_FILE", help="A run id or its first characters, or a file of weights.")
]
ImagePaths = Annotated[
    list[Path] | None,
    typer.Option(
        "--image", metavar="FILE", help="Image to show attention on. Can be repeated. Default: a test image of the run."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Folder for figures and arrays. Default: inspect/ and the name of the run."),
]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is inspected: a module, the images to show, and those to average over."""

    name: str
    module: Classifier
    shown: NDArray[np.uint8]  # (B, S, S, 3)
    averaged: NDArray[np.uint8]

    @property
    def image_size(self) -> int:
        return int(self.shown.shape[1])


@app.command("inspect")
def inspect_model(run: RunOrFile, image: ImagePaths = None, storage: StoragePath = "runs", out: Out = None) -> None:
    """Draw filters and attention of a trained ViT.

    Writes figures (.png, .svg) of the patch filters, the similarity of the position embeddings, the attention distance of
    each head and attention rollout, and their numbers as arrays.npz. Prints the paths, and the reason where a figure is not
    defined for the model.
    """
    store = Store(storage_root(storage))
    source = find_weights(run, store)
    subject = _subject(source, image or [], store)
    folder = out or Path("inspect") / (source.path.parent.name if source.config else source.path.stem)
    arrays, refusals = compute_arrays(subject)
    with writing(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / ARRAYS_FILE, **arrays)
        print(folder / ARRAYS_FILE)
        for name, figure in figures(arrays).items():
            for suffix in (".png", ".svg"):
                figure.savefig(folder / f"{name}{suffix}", dpi=200)
                print(folder / f"{name}{suffix}")
    for name, reason in refusals.items():
        print(f"no {name}: {reason}")


def compute_arrays(subject: Subject) -> tuple[dict[str, Any], dict[str, str]]:
    """The arrays that are defined for this model, and the reasons why the others are not.

    Raises UserError where none is.
    """
    from vitmodel.inspect import attention_rollout, mean_attention_distance, patch_filters, position_similarity

    module = subject.module
    quantities: dict[str, Callable[[], Any]] = {
        "filters": lambda: patch_filters(module),
        "positions": lambda: position_similarity(module),
        "distances": lambda: _mean_over(mean_attention_distance, module, subject.averaged),
        "rollout": lambda: _joined(attention_rollout, module, subject.shown),
    }
    arrays: dict[str, Any] = {}
    refusals: dict[str, str] = {}
    for name, compute in quantities.items():
        try:
            arrays[name] = compute()
        except UserError as error:
            refusals[name] = error.message
    if not arrays:
        reason = next(iter(refusals.values()))
        raise UserError(f"{subject.name}: {reason}", field="RUN_OR_FILE", allowed="a vit or a hybrid")
    facts = {"images": subject.shown, "averaged_images": len(subject.averaged), "name": subject.name}
    return {**arrays, **facts, "image_size": subject.image_size}, refusals


def figures(arrays: dict[str, Any]) -> dict[str, Figure]:
    """The figures of these arrays, by name."""
    from orchestrator.report import model_figures

    name = str(arrays["name"])
    makers: dict[str, Callable[[], Figure]] = {
        "filters": lambda: model_figures.filters(arrays["filters"], name),
        "positions": lambda: model_figures.positions(arrays["positions"], name),
        "distances": lambda: model_figures.distances(
            arrays["distances"], int(arrays["image_size"]), int(arrays["averaged_images"]), name
        ),
        "rollout": lambda: model_figures.rollout(arrays["images"], arrays["rollout"], name),
    }
    return {kind: make() for kind, make in makers.items() if kind in arrays}


def _subject(source: FoundWeights, paths: list[Path], store: Store) -> Subject:
    """Module and images. Without an image, the first test images of the dataset that the run was trained on."""
    from vitmodel.weights.verify import image_size_of_state, module

    model, state = _weights(source)
    side = image_size_of_state(model, state)
    from_data = _test_images(source, store, side)
    if not paths and from_data is None:
        raise UserError("required: no dataset of these weights is available here", field="--image", allowed="an image file")
    shown = np.stack([_read_image(path, side) for path in paths]) if paths else from_data[:1]  # type: ignore[index]
    averaged = shown if from_data is None else from_data
    return Subject(name=model.variant, module=module(model, state), shown=shown, averaged=averaged)


def _weights(source: FoundWeights) -> tuple[ModelConfig, dict[str, Any]]:
    from vitmodel.weights.files import read_tensors
    from vitmodel.weights.interchange import import_weights, with_head

    if source.model is None:
        return import_weights(source.path)
    return source.model, with_head(source.model, read_tensors(source.path))


def _test_images(source: FoundWeights, store: Store, side: int) -> NDArray[np.uint8] | None:
    """The first images of the run's evaluation split. None for a file, or where the dataset is not available here."""
    from vitmodel.data.index import load_index
    from vitmodel.data.reader import Dataset

    root = None if source.config is None else _dataset_root(source.path.parent.name, store)
    if source.config is None or root is None:
        return None
    split = source.config.data.eval_split
    count = min(DISTANCE_IMAGES, load_index(root).splits[split].samples)
    return Dataset(root, split, side, count).read(np.arange(count))


def _dataset_root(run_id: str, store: Store) -> Path | None:
    """The folder of the run's dataset, from any plan that contains the run."""
    for path in sorted(store.root.glob("studies/*/plan.json")):
        plan = store.plan(path.parent.name)
        for facts in plan.runs if plan else ():
            if facts.run_id == run_id and plan and (root := plan.datasets.get(facts.dataset)) and Path(root).is_dir():
                return Path(root)
    return None


def _read_image(path: Path, side: int) -> NDArray[np.uint8]:
    """An image file as the model sees it (S, S, 3): the reader's formats, limits and resampling."""
    from PIL import Image

    from vitmodel.data.decode import ALLOWED_FORMATS
    from vitmodel.data.images import MAX_PIXELS

    try:
        with Image.open(path, formats=ALLOWED_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels; the limit is {MAX_PIXELS} in total")
            short = min(image.size)
            left, top = (image.width - short) // 2, (image.height - short) // 2
            square = image.convert("RGB").crop((left, top, left + short, top + short))
            return np.asarray(square.resize((side, side), Image.Resampling.BILINEAR))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"not a readable image: {reason}", file=str(path), allowed=", ".join(ALLOWED_FORMATS)) from None


def _batches(images: NDArray[np.uint8]) -> list[Any]:
    import torch

    from vitmodel.data.augment import normalise

    return [normalise(images[i : i + BATCH].copy(), torch.device("cpu")) for i in range(0, len(images), BATCH)]


def _mean_over(compute: Callable[[Any, Any], Any], module: Classifier, images: NDArray[np.uint8]) -> Any:
    """The mean of a quantity over all images; `compute` gives its mean over one batch."""
    parts = [(compute(module, batch), len(batch)) for batch in _batches(images)]
    return sum(part * count for part, count in parts) / len(images)


def _joined(compute: Callable[[Any, Any], Any], module: Classifier, images: NDArray[np.uint8]) -> Any:
    return np.concatenate([compute(module, batch) for batch in _batches(images)])
