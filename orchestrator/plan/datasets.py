"""The datasets of a study: identity, counts and folder of each, from its generator's arguments or from its index."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from orchestrator.secrets import expand_environment, names_in, redact
from orchestrator.spec.errors import combined
from orchestrator.spec.schema import ExternalData
from orchestrator.spec.study import StudyFile
from orchestrator.spec.yamltree import Place
from vitmodel.config.base import UserError
from vitmodel.data import generated
from vitmodel.data.generated import GeneratedConfig
from vitmodel.data.index import INDEX_FILE, DatasetIndex, MissingIndexError, load_index
from vitmodel.data.remote import RetryPolicy, is_url, join

NO_INDEX = "does not exist"
PLANNING = RetryPolicy(attempts=2, timeout_seconds=5.0)  # a plan does not wait long for a store that does not answer


class DataFacts(NamedTuple):
    """What planning needs to know of a dataset."""

    identity: str
    train: int  # images
    classes: int
    eval_split: str
    root: str
    missing: str  # why its index cannot be read, so that it is planned from the study file alone; empty where it can
    image_size: int | None  # pixels per side, where known


def look_up_datasets(file: StudyFile, storage: Path, retry_policy: RetryPolicy = PLANNING) -> dict[str, DataFacts]:
    """All datasets of a study. `retry_policy` is for stores behind URLs.

    Raises UserError where an index is stale or contradicts the study, or where neither has a number that is needed.
    """
    facts: dict[str, DataFacts] = {}
    errors: list[UserError] = []
    for name, spec in file.study.datasets.items():
        try:
            if isinstance(spec, ExternalData):
                facts[name] = _external(file, name, spec, storage, retry_policy)
            else:
                facts[name] = _generated(name, spec, storage)
        except UserError as error:
            errors += error.errors
    if errors:
        raise combined(errors)
    return facts


def describe_missing(why: str, where: str) -> str:
    """Why an index cannot be read, as a message. `where`: the dataset's folder or address without secrets."""
    return f"no {INDEX_FILE} in {where}" if why == NO_INDEX else f"{INDEX_FILE} in {where} {why}"


def _generated(name: str, spec: GeneratedConfig, storage: Path) -> DataFacts:
    identity = generated.identity(spec)
    return DataFacts(
        identity=identity,
        train=generated.train_samples(spec),
        classes=generated.classes(spec),
        eval_split=generated.eval_split(spec),
        root=str(storage / "data" / f"{name}-{identity[-8:]}"),
        missing="",
        image_size=spec.image_size,
    )


def _external(file: StudyFile, name: str, spec: ExternalData, storage: Path, retry_policy: RetryPolicy) -> DataFacts:
    place: Place = ("datasets", name)
    if not spec.url and not spec.source:
        allowed = "url: the folder of a packed dataset; source: the folder of its downloads, with describe"
        raise file.tree.error("neither url nor source", place, allowed, example="url: /data/imagenet")
    if spec.source and spec.description is None:
        message = "a source needs a description; state describe"
        raise file.tree.error(
            message, (*place, "source"), "`vitscale data known` lists known datasets", example="describe: cifar10"
        )
    try:
        root = expand_environment(spec.url) if spec.url else str(storage / "data" / f"{name}{'-dev' if spec.dev else ''}")
    except UserError:  # the variable is not set on the machine that plans
        root = spec.url
    index, missing = _read_index(file, name, spec, root, retry_policy)
    if index is not None:
        _check_against(index, file, name, spec)
    train, classes = spec.train or _train_images(index), spec.classes or (index.classes if index else 0)
    if not train or not classes:
        raise _not_stated(file, name, spec, root, missing)
    return DataFacts(
        identity=index.identity if index else f"declared-{name}-{train}-{classes}",
        train=train,
        classes=classes,
        eval_split=spec.eval_split or ("test" if index is None or "test" in index.splits else "val"),
        root=root,
        missing=missing,
        image_size=spec.image_size or (index.image_size if index else None),
    )


def _read_index(
    file: StudyFile, name: str, spec: ExternalData, root: str, retry_policy: RetryPolicy
) -> tuple[DatasetIndex | None, str]:
    """A dataset's index, or None and why it cannot be read from here. Raises UserError for one that is invalid or stale."""
    place: Place = ("datasets", name, "url")
    try:
        is_url(root)
    except UserError as error:
        raise file.tree.error(error.message, place, error.allowed) from None
    try:
        return load_index(root, retry_policy), ""
    except MissingIndexError:
        return None, NO_INDEX
    except UserError as error:
        raise file.tree.error(redact(f"{error.file}: {error.message}", names_in(spec.url)), place) from None
    except OSError as error:
        return None, f"cannot be read: {str(error).removeprefix(join(root, INDEX_FILE)).lstrip(': ')}"


def _check_against(index: DatasetIndex, file: StudyFile, name: str, spec: ExternalData) -> None:
    """Raise UserError where the index contradicts what the study, or the dataset's description, states."""
    train, splits = _train_images(index), ", ".join(index.splits)
    messages = {
        "train": (spec.train or train) != train and (f"the index has {train} training images, not {spec.train}", str(train)),
        "classes": (spec.classes or index.classes) != index.classes
        and (f"the index has {index.classes} classes, not {spec.classes}", str(index.classes)),
        "eval_split": spec.eval_split is not None
        and spec.eval_split not in index.splits
        and (f"the index has no split {spec.eval_split}", splits),
    }
    errors = [file.tree.error(item[0], ("datasets", name, key), item[1]) for key, item in messages.items() if item]
    if errors:
        raise combined(errors)


def _train_images(index: DatasetIndex | None) -> int:
    return index.splits["train"].samples if index and "train" in index.splits else 0


def _not_stated(file: StudyFile, name: str, spec: ExternalData, root: str, missing: str) -> UserError:
    """A number is neither in the study nor in an index."""
    needed = " and ".join(key for key in ("train", "classes") if not getattr(spec, key))
    folder = redact(root, names_in(spec.url))
    reason = describe_missing(redact(missing, names_in(spec.url)), folder) if missing else "the index has no train split"
    keys = f"describe: {spec.describe}, source: {spec.source}" if spec.source else f"url: {spec.url}"
    example = f"{name}: {{{keys}, train: 1281167, classes: 1000}}"
    return file.tree.error(
        f"{reason}; state {needed}, or give the dataset's packed folder", ("datasets", name), example=example
    )
