"""Verbs on weights: import from other codebases, export to them, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.commands.options import StoragePath
from orchestrator.prepare import storage_root
from orchestrator.store.find import find_weights
from orchestrator.store.layout import Store
from vitmodel.config.base import UserError
from vitmodel.config.models import FAMILIES, HybridConfig, ModelConfig, ViTConfig
from vitmodel.config.variants import VIT_SIZES, named_model
from vitmodel.weights.header import hf_choices
from vitmodel.weights.recognise import CHOICES, Layout

if TYPE_CHECKING:
    from torch import Tensor

    from vitmodel.weights.verify import Verified

app = typer.Typer(no_args_is_help=True, help="Weights of other codebases, in and out.")


Target = Literal["official", "timm", "hf", "ours"]
SUFFIXES: dict[Target, str] = {"official": ".npz", "timm": ".safetensors", "hf": "", "ours": ".safetensors"}

Model = Annotated[
    str | None,
    typer.Option("--model", help="a name such as B/16, or a .json file with a model; else told from the shapes"),
]
FromLayout = Annotated[Layout | None, typer.Option("--layout", help="whose names the file speaks; else told from them")]
ToLayout = Annotated[Target, typer.Option("--layout", help="official: npz; timm, ours: safetensors; hf: a folder")]
Tolerance = Annotated[float, typer.Option("--tolerance", min=0.0, help="of two files' logits")]


@app.command("import")
def import_file(file: Path, dest: Path, model: Model = None, layout: FromLayout = None) -> None:
    """Read an official npz, a timm or Hugging Face file or folder; write DEST.safetensors, which carries its model."""
    from vitmodel.weights.interchange import export_weights, import_weights

    _check_suffix(dest, "ours")
    config, state = import_weights(file, _model(model), layout)
    dest.parent.mkdir(parents=True, exist_ok=True)
    export_weights(state, config, dest)
    print(f"{dest}: {_words(config)}; {len(state)} tensors, {sum(t.numel() for t in state.values()):,} values")
    if _has_guessed_heads(config, model, file):
        print("note: this layout does not show the heads, width / 64 was assumed; --model sets them")


@app.command("export")
def export(run_or_file: str, dest: Path, layout: ToLayout, storage: StoragePath = "runs") -> None:
    """Write the weights of a run, or of a file, as another codebase reads them."""
    from vitmodel.weights.interchange import export_weights, import_weights

    _check_suffix(dest, layout)
    found = find_weights(run_or_file, Store(storage_root(storage)))
    config, state = _read(found.path, found.model) if found.model else import_weights(found.path)
    dest.parent.mkdir(parents=True, exist_ok=True)
    target: Layout | None = None if layout == "ours" else layout
    export_weights(state, config, dest, target)
    print(f"{dest}: {_words(config)}; layout {layout}")
    for key, value in CHOICES[target].items() if target in ("official", "timm") else ():
        if isinstance(config, ViTConfig | HybridConfig) and (own := getattr(config, key)) != value:
            print(f"note: {layout} computes with {key} {value}, these weights with {own}: logits will differ a little")


@app.command("verify")
def verify(
    file: Path,
    other: Annotated[Path | None, typer.Argument(help="compare logits with this file's")] = None,
    model: Model = None,
    layout: FromLayout = None,
    tolerance: Tolerance = 1e-4,
) -> None:
    """Check keys, shapes, values and round trips of a file; with a second file, compare the logits of a fixed image."""
    from vitmodel.weights.interchange import import_weights
    from vitmodel.weights.verify import logit_difference, verify_file

    config = _model(model)
    problems = list(_report(verify_file(file, config, layout)))
    if other is not None:
        problems += _report(verify_file(other, config))
        difference, scale = logit_difference(import_weights(file, config, layout), import_weights(other, config))
        print(f"logits differ by {difference:.3g} at most (largest logit {scale:.3g}, tolerance {tolerance:g})")
        if not difference <= tolerance:
            problems.append("the two files give other logits")
    print("\n".join(problems) or "whole")
    raise typer.Exit(1 if problems else 0)


def _report(found: Verified) -> tuple[str, ...]:
    print(f"{found.path}: layout {found.layout}, {_words(found.model)}")
    trips = ", ".join(f"{layout} {'bit for bit' if same else 'BROKEN'}" for layout, same in found.round_trips.items())
    print(f"  {found.tensors} tensors, {found.params:,} values, {found.classes} classes, {found.image_size} px")
    print(f"  there and back: {trips or 'no other layout has a place for this model'}")
    return found.problems


def _words(model: ModelConfig) -> str:
    """The model, with what a file of weights decides."""
    if not isinstance(model, ViTConfig | HybridConfig):
        return f"{model.variant} ({model.family})"
    size = f"width {model.width}, depth {model.depth}, heads {model.heads}, patch {model.patch}"
    extra = f", pre-logits {model.pre_logits}" if model.pre_logits else ""
    return f"{model.variant} ({model.family}: {size}, {model.pooling}, GELU {model.gelu}, eps {model.layer_norm_eps:g}{extra})"


def _model(text: str | None) -> ModelConfig | None:
    """A named model, or the mapping in a .json file."""
    if text is None:
        return None
    if not text.endswith(".json"):
        return named_model(text)
    path = Path(text)
    try:
        keys = json.loads(path.read_text())
        kind = FAMILIES.get(str(keys.get("family")))
        if kind is None:
            raise UserError("a model of free size needs its family", file=text, field="family", allowed=", ".join(FAMILIES))
        return kind.model_validate_json(json.dumps({"variant": path.stem, **keys}))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"no model: {str(error).splitlines()[0]}", file=text, field="--model") from None


def _read(path: Path, model: ModelConfig) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A run's weights: its configuration says the model, also for files that do not carry it yet."""
    from vitmodel.weights.files import read_tensors
    from vitmodel.weights.interchange import with_head

    return model, with_head(model, read_tensors(path))


def _check_suffix(dest: Path, target: Target) -> None:
    if dest.suffix != SUFFIXES[target]:
        what = f"a name that ends in {SUFFIXES[target]}" if SUFFIXES[target] else "a folder's name, without an ending"
        raise UserError(f"layout {target} is written to {what}", file=str(dest), field="DEST", allowed=what)


def _has_guessed_heads(config: ModelConfig, model: str | None, file: Path) -> bool:
    """Whether nothing but the width told the number of heads: tensors of timm, or of Hugging Face without a config.json."""
    from vitmodel.weights.interchange import own_model

    if model is not None or file.suffix == ".npz" or "heads" in hf_choices(file) or own_model(file) is not None:
        return False
    return isinstance(config, ViTConfig) and config.variant.partition("/")[0] not in VIT_SIZES
