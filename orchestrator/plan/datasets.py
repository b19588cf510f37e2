"""The datasets of a study: identity, counts and folder of each, from its generator's arguments or from its index."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from orchestrator.secrets import expand_environment, names_in, redact
from orchestrator.spec.schema import ExternalData
from orchestrator.spec.study import StudyFile
from orchestrator.spec.yamltree import Place
from vitmodel.config.base import UserError
from vitmodel.data import generated
from vitmodel.data.index import INDEX_FILE, DatasetIndex, load_index
from vitmodel.data.remote import RetryPolicy, is_url, join, read_whole

NO_INDEX = "is not there"
PLANNING = RetryPolicy(attempts=2, timeout_seconds=5.0)  # a plan does not wait long for a store that is not there


class DataFacts(NamedTuple):
    """What planning needs to know of a dataset."""

    identity: str
    train: int  # images
    classes: int
    eval_split: str
    root: str
    missing: str  # why its index could not be read, so that it is planned from its declaration alone; empty where it could
    image_size: int | None  # pixels per side, where known


def look_up_datasets(file: StudyFile, storage: Path, retry_policy: RetryPolicy = PLANNING) -> dict[str, DataFacts]:
    """All datasets of a study. Raises UserError where an index contradicts the study, or is stale.

    `retry_policy` is for stores behind URLs.
    """
    found = {}
    for name, spec in file.study.datasets.items():
        if isinstance(spec, ExternalData):
            found[name] = _external(file, name, spec, storage, retry_policy)
            continue
        identity = generated.identity(spec)
        found[name] = DataFacts(
            identity=identity,
            train=generated.train_samples(spec),
            classes=generated.classes(spec),
            eval_split=generated.eval_split(spec),
            root=str(storage / "data" / f"{name}-{identity[-8:]}"),
            missing="",
            image_size=spec.image_size,
        )
    return found


def _external(file: StudyFile, name: str, spec: ExternalData, storage: Path, retry_policy: RetryPolicy) -> DataFacts:
    if not spec.url and not spec.source:
        raise file.tree.error("neither url nor source", ("datasets", name), "url: a packed folder; source: its downloads")
    if spec.source and spec.description is None:
        raise file.tree.error("a source needs a description", ("datasets", name, "source"), "describe beside it")
    try:
        root = expand_environment(spec.url) if spec.url else str(storage / "data" / f"{name}{'-dev' if spec.dev else ''}")
    except UserError:  # not set on the machine that plans
        root = spec.url
    missing = _why_missing(file, name, root, retry_policy)
    index = None if missing else _index(file, name, spec, root)
    return DataFacts(
        identity=index.identity if index else f"declared-{name}-{spec.train}-{spec.classes}",
        train=spec.train,
        classes=spec.classes,
        eval_split=spec.eval_split,
        root=root,
        missing=missing,
        image_size=spec.image_size or (index.image_size if index else None),
    )


def _why_missing(file: StudyFile, name: str, root: str, retry_policy: RetryPolicy) -> str:
    """Why a dataset's index cannot be read from here; empty where it can."""
    try:
        if is_url(root):
            read_whole(join(root, INDEX_FILE), retry_policy)
            return ""
        return "" if Path(root, INDEX_FILE).is_file() else NO_INDEX
    except UserError as error:
        raise file.tree.error(error.message, ("datasets", name, "url"), error.allowed) from None
    except FileNotFoundError:
        return NO_INDEX
    except OSError as error:
        return f"cannot be read: {str(error).removeprefix(join(root, INDEX_FILE)).lstrip(': ')}"


def said_of_missing(why: str, where: str) -> str:
    """The same as a message, with the dataset's folder or address as it may be shown."""
    return f"no {INDEX_FILE} in {where}" if why == NO_INDEX else f"{INDEX_FILE} in {where} {why}"


def _index(file: StudyFile, name: str, spec: ExternalData, root: str) -> DatasetIndex:
    place: Place = ("datasets", name)
    try:
        index = load_index(root)
    except UserError as error:
        message = redact(f"{error.file}: {error.message}", names_in(spec.url))
        raise file.tree.error(message, (*place, "url")) from None
    except OSError as error:  # it could be a moment ago
        raise file.tree.error(redact(str(error), names_in(spec.url)), (*place, "url")) from None
    train = index.splits["train"].samples if "train" in index.splits else 0
    if (train, index.classes) != (spec.train, spec.classes):
        raise file.tree.error(
            f"the index has {train} training images of {index.classes} classes, the study says {spec.train} of {spec.classes}",
            place,
        )
    if spec.eval_split not in index.splits:
        raise file.tree.error(f"no split {spec.eval_split}", (*place, "eval_split"), ", ".join(index.splits))
    return index
