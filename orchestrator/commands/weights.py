"""Commands on weights: import from other codebases, export to them, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from pydantic import ValidationError

from orchestrator.commands.files import writing
from orchestrator.commands.options import StoragePath
from orchestrator.prepare import storage_root
from orchestrator.store.find import find_weights
from orchestrator.store.layout import Store
from vitmodel.config.base import UserError
from vitmodel.config.families.hybrid import HybridConfig
from vitmodel.config.families.vit import VIT_SIZES, ViTConfig
from vitmodel.config.models import FAMILIES, ModelConfig, named_model
from vitmodel.weights.header import hf_choices
from vitmodel.weights.recognise import CHOICES, Layout

if TYPE_CHECKING:
    from torch import Tensor

    from vitmodel.weights.verify import Verified

app = typer.Typer(no_args_is_help=True, help="Import, export and verify weights of other codebases.")


Target = Literal["official", "timm", "hf", "ours"]
SUFFIXES: dict[Target, str] = {"official": ".npz", "timm": ".safetensors", "hf": "", "ours": ".safetensors"}

WeightsFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Official .npz, timm .safetensors or .pth, Hugging Face file or folder, or a file of vitscale."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Name such as B/16, or a .json file with a model. Default: recognised from the shapes of the tensors.",
    ),
]
FromLayout = Annotated[
    Layout | None, typer.Option("--layout", help="Layout of FILE. Default: recognised from the names of the tensors.")
]
ToLayout = Annotated[
    Target,
    typer.Option("--layout", help="Layout to write: official (.npz), timm or ours (vitscale; .safetensors), hf (a folder)."),
]
Tolerance = Annotated[
    float,
    typer.Option("--tolerance", metavar="X", min=0.0, help="Largest accepted difference between logits of FILE and OTHER."),
]


@app.command("import")
def import_file(
    file: WeightsFile,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="File to write; its name must end in .safetensors.")],
    model: Model = None,
    layout: FromLayout = None,
) -> None:
    """Convert weights of another codebase to our format.

    DEST contains its model, so that a study can start from it (`init`) without further settings.
    """
    from vitmodel.weights.interchange import export_weights, import_weights

    _check_dest(dest, "ours")
    config, state = import_weights(file, _model(model), layout)
    with writing(dest, "DEST"):
        dest.parent.mkdir(parents=True, exist_ok=True)
        export_weights(state, config, dest)
    print(f"{dest}: {_model_text(config)}; {len(state)} tensors, {sum(t.numel() for t in state.values()):,} values")
    if _has_guessed_heads(config, model, file):
        print("note: this layout does not store the number of heads; width / 64 was assumed. Set it with --model")


@app.command("export")
def export(
    run_or_file: Annotated[
        str, typer.Argument(metavar="RUN_OR_FILE", help="A run id or its first characters, or a file of weights.")
    ],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="File or folder to write; its ending depends on --layout.")],
    layout: ToLayout,
    storage: StoragePath = "runs",
) -> None:
    """Write weights in the layout of another codebase."""
    from vitmodel.weights.interchange import export_weights, import_weights

    _check_dest(dest, layout)
    source = find_weights(run_or_file, Store(storage_root(storage)))
    config, state = _read(source.path, source.model) if source.model else import_weights(source.path)
    target: Layout | None = None if layout == "ours" else layout
    with writing(dest, "DEST"):
        dest.parent.mkdir(parents=True, exist_ok=True)
        export_weights(state, config, dest, target)
    print(f"{dest}: {_model_text(config)}; layout {layout}")
    for key, value in CHOICES[target].items() if target in ("official", "timm") else ():
        if isinstance(config, ViTConfig | HybridConfig) and (ours := getattr(config, key)) != value:
            print(f"note: {layout} computes with {key} {value}, these weights with {ours}; the logits will differ slightly")


@app.command("verify")
def verify(
    file: WeightsFile,
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="Second file, to compare the logits of fixed images with.")
    ] = None,
    model: Model = None,
    layout: FromLayout = None,
    tolerance: Tolerance = 1e-4,
) -> None:
    """Check a file of weights, or compare two files.

    Checks the names, shapes and values of the tensors, and that they are the same bit for bit after a conversion to every
    layout and back. With OTHER it also compares the logits of both files.

    Exit codes: 0 no problems; 1 problems, one per line; 2 user error.
    """
    from vitmodel.weights.interchange import import_weights
    from vitmodel.weights.verify import logit_difference, verify_file

    config = _model(model)
    problems = list(_report(verify_file(file, config, layout)))
    if other is not None:
        problems += _report(verify_file(other, config))
        difference, scale = logit_difference(import_weights(file, config, layout), import_weights(other, config))
        print(f"logits differ by at most {difference:.3g} (largest logit {scale:.3g}, tolerance {tolerance:g})")
        if not difference <= tolerance:
            problems.append("the logits of the two files differ by more than the tolerance")
    print("\n".join(problems) or "no problems")
    raise typer.Exit(1 if problems else 0)


def _report(result: Verified) -> tuple[str, ...]:
    print(f"{result.path}: layout {result.layout}, {_model_text(result.model)}")
    trips = ", ".join(f"{layout} {'bit for bit' if same else 'DIFFERENT'}" for layout, same in result.round_trips.items())
    print(f"  {result.tensors} tensors, {result.params:,} values, {result.classes} classes, {result.image_size} px")
    print(f"  converted and back: {trips or 'no other layout supports this model'}")
    return result.problems


def _model_text(model: ModelConfig) -> str:
    """The model, with what a file of weights determines."""
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
        family = FAMILIES.get(str(keys.get("family")))
        if family is None:
            raise UserError("a model in a file must state its family", file=text, field="family", allowed=", ".join(FAMILIES))
        return cast(ModelConfig, family.config.model_validate_json(json.dumps({"variant": path.stem, **keys})))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=text, field="--model") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(first["msg"], file=text, field=".".join(map(str, first["loc"]))) from None
    except (ValueError, AttributeError) as error:  # no JSON, or no mapping
        raise UserError(f"not a model: {error}", file=text, field="--model", allowed="a JSON mapping with family") from None


def _read(path: Path, model: ModelConfig) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The weights of a run. Its configuration names the model, also for files that do not contain it yet."""
    from vitmodel.weights.files import read_tensors
    from vitmodel.weights.interchange import with_head

    return model, with_head(model, read_tensors(path))


def _check_dest(dest: Path, target: Target) -> None:
    if dest.suffix != SUFFIXES[target]:
        allowed = f"a name that ends in {SUFFIXES[target]}" if SUFFIXES[target] else "a folder, a name without an ending"
        raise UserError(f"wrong name for layout {target}", file=str(dest), field="DEST", allowed=allowed)


def _has_guessed_heads(config: ModelConfig, model: str | None, file: Path) -> bool:
    """Whether the number of heads follows from the width alone: tensors of timm, or of Hugging Face without a config.json."""
    from vitmodel.weights.interchange import native_model

    if model is not None or file.suffix == ".npz" or "heads" in hf_choices(file) or native_model(file) is not None:
        return False
    return isinstance(config, ViTConfig) and config.variant.partition("/")[0] not in VIT_SIZES
