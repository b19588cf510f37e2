"""Descriptions of known datasets (descriptions/*.yaml): reads them, and derives from them how a dataset is packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.spec.errors import combined, faults
from orchestrator.spec.hints import did_you_mean
from orchestrator.spec.yamltree import Place, YamlTree
from vitmodel.config.base import UserError
from vitmodel.data.descriptions import Description, PackConfig

DESCRIPTIONS = Path(__file__).parent / "descriptions"  # package data: also part of an installed wheel


def read_description(path: Path) -> Description:
    """Read and check a description. Raises UserError with all its mistakes."""
    tree = YamlTree(path, what="a dataset description", keys=tuple(Description.model_fields))
    try:
        description = Description.model_validate(as_tuples(tree.data))
    except ValidationError as error:
        raise combined([*tree.faults, *faults(tree, error, Description)]) from None
    if tree.faults:
        raise combined(tree.faults)
    return description


def as_tuples(node: Any) -> Any:
    """Lists as tuples, which strict validation requires for frozen sequences."""
    if isinstance(node, dict):
        return {key: as_tuples(value) for key, value in node.items()}
    return tuple(map(as_tuples, node)) if isinstance(node, list) else node


def find_description(name: str, folder: Path = Path()) -> Path | None:
    """The file of a description: of a known dataset by its name, or a .yaml file relative to `folder`; None where there is
    none."""
    path = Path(name)
    is_file_name = path.suffix in (".yaml", ".yml")
    if not is_file_name and (".." in path.parts or path.is_absolute()):
        return None
    file = folder / path if is_file_name else DESCRIPTIONS / f"{name}.yaml"
    try:
        return file if file.is_file() else None
    except OSError:  # such as a name that is too long
        return None


def known_names() -> list[str]:
    """Names of the descriptions that come with this project."""
    return sorted(path.relative_to(DESCRIPTIONS).with_suffix("").as_posix() for path in DESCRIPTIONS.rglob("*.yaml"))


def described(tree: YamlTree, place: Place, keys: dict[str, Any]) -> dict[str, Any]:
    """A dataset of a study with the facts of its description, unless the study states them. Raises UserError."""
    name = str(keys["describe"])
    path = find_description(name, Path(tree.file).parent)
    if path is None:
        hint = did_you_mean(Path(name).stem, known_names())
        allowed = f"{', '.join(known_names())}, or a YAML file relative to the study file"
        raise tree.error(f"no description {name!r}{hint}", (*place, "describe"), allowed, example="describe: cifar10")
    description, dev = read_description(path), keys.get("dev") is True
    if dev and description.dev is None:
        raise tree.error(f"{description.name} has no development split", (*place, "dev"), "false")
    facts = {
        "train": train_images(description, dev) or None,
        "classes": description.classes,
        "eval_split": "val" if dev else description.eval_split,
        "licence": description.licence,
    }
    return {**facts, **keys, "description": description}


def train_images(description: Description, dev: bool) -> int:
    """Images in the train split after packing; 0 where they are not known before packing."""
    images = description.splits["train"]
    return images - dev_images(description) if dev else images


def dev_images(description: Description) -> int:
    """Images of the development set, which is a part of train. Raises UserError where there is none."""
    if description.dev is None:
        raise UserError(f"{description.name} has no development split", field="dev")
    return max(1, round(description.dev * description.splits["train"]))


def pack_config(
    description: Description,
    folder: Path,
    *,
    dev: bool = False,
    resize: int | None = None,
    skip_bad: float = 0.0,
    command: str = "",
) -> PackConfig:
    """How the downloaded files of a known dataset are packed.

    Raises UserError where the folder does not exist, or the dataset has no development split.
    """
    if not folder.exists():
        steps = "; ".join(f"{file.url} {f'({file.then})' if file.then else ''}".strip() for file in description.downloads)
        raise UserError(f"no such folder; download {description.title} first", file=str(folder), allowed=steps)
    if dev:
        dev_images(description)
    return PackConfig(
        path=str(folder.absolute()),
        files=(dev and description.dev_files) or description.files,
        hold_out=description.hold_out,
        dev=description.dev if dev and description.dev_files is None else None,
        label_sets=description.label_sets,
        class_names=description.class_names,
        source=f"{description.title}, {description.homepage}",
        licence=description.licence,
        resize=resize,
        skip_bad=skip_bad,
        command=command,
    )


def check_counts(description: Description, packed: dict[str, int], classes: int, *, dev: bool, skipped: int) -> None:
    """Raise UserError where a packed dataset differs from its description by more than the skipped images."""
    wanted = {str(split): images for split, images in description.splits.items() if images}
    if dev:
        wanted = {"train": train_images(description, True), "val": dev_images(description)}
    missing = [images - packed.get(split, 0) for split, images in wanted.items()]
    if min(missing) < 0 or sum(missing) > skipped or classes != description.classes:
        raise UserError(
            f"packed {packed} images of {classes} classes, but {description.name} has {wanted} of {description.classes}: "
            "a file is missing or is of another version",
            field=description.name,
        )
