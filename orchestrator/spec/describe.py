"""Descriptions of known datasets (studies/data/*.yaml): reading them, and what packing needs of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.spec.yamltree import YamlTree
from vitmodel.config.base import UserError, suggest
from vitmodel.data.descriptions import Description, PackConfig

HOME = Path(__file__).parents[2] / "studies" / "data"


def read_description(path: Path) -> Description:
    """Read and check a description. Raises UserError with its line."""
    tree = YamlTree(path)
    try:
        return Description.model_validate(as_tuples(tree.data))
    except ValidationError as error:
        first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        place = tuple(first["loc"])
        known = list(Description.model_fields)
        if first["type"] == "extra_forbidden":
            raise tree.error(f"unknown key{suggest(str(place[-1]), known)}", place, ", ".join(known)) from None
        missing = str(place[-1]) if first["type"] == "missing" else ""
        raise tree.error(first["msg"].removeprefix("Value error, "), place, missing=missing) from None


def as_tuples(node: Any) -> Any:
    """Lists as tuples: what strict validation wants for frozen sequences."""
    if isinstance(node, dict):
        return {key: as_tuples(value) for key, value in node.items()}
    return tuple(map(as_tuples, node)) if isinstance(node, list) else node


def find_description(name: str) -> Path | None:
    """The description called so: a path, or a name in studies/data with or without its folder."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    found = [HOME / f"{name}.yaml"] if ".." not in path.parts and not path.is_absolute() else []
    return next((place for place in found if place.is_file()), None)


def known_names() -> list[str]:
    """Names of the descriptions that come with this project."""
    return sorted(path.relative_to(HOME).with_suffix("").as_posix() for path in HOME.rglob("*.yaml"))


def expand_datasets(tree: YamlTree, data: dict[str, Any]) -> dict[str, Any]:
    """A study's data, every dataset's `describe` (a path beside the study, or a known name) replaced by what stands there."""
    datasets = data.get("datasets")
    if not isinstance(datasets, dict):
        return data
    expanded = {
        name: _expanded(tree, name, keys) if "describe" in keys else keys
        for name, keys in datasets.items()
        if isinstance(keys, dict)
    }
    return {**data, "datasets": {**datasets, **expanded}}


def _expanded(tree: YamlTree, name: str, keys: dict[str, Any]) -> dict[str, Any]:
    beside = Path(tree.file).parent / str(keys["describe"])
    path = beside if beside.is_file() else find_description(str(keys["describe"]))
    if path is None or not path.is_file():
        raise tree.error(f"no description {keys['describe']!r}", ("datasets", name, "describe"), ", ".join(known_names()))
    own = {key: value for key, value in keys.items() if key != "describe"}
    description, dev = read_description(path), keys.get("dev") is True
    if dev and description.dev is None:
        raise tree.error(f"{description.name} has no development split", ("datasets", name, "dev"), "false")
    if not description.splits["train"] and "train" not in own:
        raise tree.error("the description leaves the number of training images open: give train", ("datasets", name))
    facts = {
        "train": train_images(description, dev),
        "classes": description.classes,
        "eval_split": "val" if dev else description.eval_split,
        "licence": description.licence,
    }
    return {**facts, **own, "description": description}


def train_images(description: Description, dev: bool) -> int:
    """Images in the train split after packing; 0 where only packing can tell."""
    images = description.splits["train"]
    return images - dev_images(description) if dev else images


def dev_images(description: Description) -> int:
    """Images of the development set, cut off train."""
    if description.dev is None:
        raise UserError(f"{description.name} has no development split", field="dev")
    return max(1, round(description.dev * description.splits["train"]))


def pack_config(description: Description, folder: Path, *, dev: bool = False, **own: Any) -> PackConfig:
    """How a folder of a known dataset's downloads is packed; `own` are fields of PackConfig that a description leaves open.

    Raises UserError where the folder is missing, or there is no development split to cut.
    """
    if not folder.exists():
        steps = "; ".join(f"{file.url} {f'({file.then})' if file.then else ''}".strip() for file in description.downloads)
        raise UserError(f"no such folder: {description.title} is to be fetched first", file=str(folder), allowed=steps)
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
        **own,
    )


def check_counts(description: Description, found: dict[str, int], classes: int, *, dev: bool, skipped: int) -> None:
    """Raise UserError where a packed dataset is not what its description says, skipped images aside."""
    wanted = {str(split): images for split, images in description.splits.items() if images}
    if dev:
        wanted = {"train": train_images(description, True), "val": dev_images(description)}
    missing = [images - found.get(split, 0) for split, images in wanted.items()]
    if min(missing) < 0 or sum(missing) > skipped or classes != description.classes:
        raise UserError(
            f"packed {found} images of {classes} classes, {description.name} has {wanted} of {description.classes}: "
            "a file is missing, or another version",
            field=description.name,
        )
