"""References within a study file: datasets, tasks, variants and tables that are named somewhere must be defined somewhere.

Names are checked on the file's plain data, so that they are reported together with the mistakes of a file that does not
fit the schema.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.spec.errors import missing_key
from orchestrator.spec.expand import STAND_IN
from orchestrator.spec.hints import did_you_mean, intended
from orchestrator.spec.pretrain import Pretrain
from orchestrator.spec.schema import Study
from orchestrator.spec.yamltree import Place, YamlTree
from vitmodel.config.base import UserError
from vitmodel.config.models import named_model

NEEDED = ("data", "resolution", "sizes", "lengths", "recipe")  # of `pretrain`, where a model is trained


def check_names(tree: YamlTree) -> list[UserError]:
    """Required sections, names of datasets and tasks, tables: what can be checked without the schema."""
    data = tree.data
    errors = _missing_sections(tree, data) if not data.get("imports") else []
    errors += _training_keys(tree, data)
    errors += _dataset_names(tree, data)
    errors += _repeated_tables(tree, data)
    return errors if data.get("imports") else errors + _task_names(tree, data)


def check_models(tree: YamlTree, data: dict[str, Any]) -> list[UserError]:
    """Models that are listed twice, and variants that are not listed. `data`: the file's data after `expand`."""
    models = _at(data, "pretrain", "models")
    entries = [(entry["model"].variant, entry.get("recipe")) for entry in models] if isinstance(models, list) else []
    if any(variant == STAND_IN.variant for variant, _ in entries):
        return []  # the variants are not known
    errors = [
        tree.error(
            f"{entry[0]} is listed twice with the same recipe",
            ("pretrain", "models", number),
            "one entry per model, or entries with different recipe keys",
        )
        for number, entry in enumerate(entries)
        if entry in entries[:number]
    ]
    return errors if data.get("imports") else errors + _variants(tree, data, [variant for variant, _ in entries])


def _variants(tree: YamlTree, data: dict[str, Any], known: list[str]) -> list[UserError]:
    """Variants that claims and targets name: those of the study; for targets also published ones."""
    pairs, targets = _at(data, "claims", "pairs"), data.get("targets")
    numbers = range(len(pairs) if isinstance(pairs, list) else 0)
    named = [item for number in numbers for item in _texts_at(data, "claims", "pairs", number)]
    errors = [error for place, name in named for error in _unknown(tree, "model", name, place, known)]
    for number in range(len(targets) if isinstance(targets, list) else 0):
        for place, name in _text_at(data, "targets", number, "variant"):
            try:
                _ = name in known or named_model(name)
            except UserError as error:
                allowed = f"{', '.join(known)}; {error.allowed}"
                errors.append(tree.error(error.message, place, allowed, example="variant: L/16"))
    return errors


def _missing_sections(tree: YamlTree, data: dict[str, Any]) -> list[UserError]:
    """`datasets` and `pretrain`, which a study without imported tables needs."""
    unknown = [key for key in data if key not in Study.model_fields]
    renamed = {intended(key, list(Study.model_fields)) for key in unknown}
    missing = [name for name in ("datasets", "pretrain") if name not in data and name not in renamed]
    errors = [missing_key(tree, (), name, Study.model_fields[name]) for name in missing]
    empty = [name for name in ("datasets", "pretrain") if data.get(name) in ({}, [])]
    return errors + [tree.error("the section is empty; fill it in", (name,)) for name in empty]


def _training_keys(tree: YamlTree, data: dict[str, Any]) -> list[UserError]:
    """Keys that a pretraining needs where a model is trained, and that a model with imported weights cannot have."""
    pretrain = data.get("pretrain")
    if not isinstance(pretrain, dict):
        return []
    errors: list[UserError] = []
    models = pretrain.get("models")
    entries = models if isinstance(models, list) else []
    imported = [isinstance(entry, dict) and "init" in entry for entry in entries]
    for number, entry in enumerate(entries):
        for key in ("lengths", "recipe"):
            if imported[number] and key in entry:
                place: Place = ("pretrain", "models", number, key)
                errors.append(tree.error("a model with imported weights is not pretrained; remove this key", place))
    if not entries or not all(imported):
        renamed = {intended(key, list(Pretrain.model_fields)) for key in pretrain if key not in Pretrain.model_fields}
        missing = [key for key in NEEDED if key not in pretrain and key not in renamed]
        errors += [missing_key(tree, ("pretrain",), key, Pretrain.model_fields[key]) for key in missing]
    return errors


def _dataset_names(tree: YamlTree, data: dict[str, Any]) -> list[UserError]:
    datasets = data.get("datasets")
    if not isinstance(datasets, dict):
        return []
    named = [*_text_at(data, "pretrain", "data")]
    for section in ("transfer", "probe"):
        named += _texts_at(data, section, "tasks")
    recipes = _at(data, "transfer", "task_recipes")
    named += [(("transfer", "task_recipes", task), task) for task in recipes] if isinstance(recipes, dict) else []
    return [error for place, name in named for error in _unknown(tree, "dataset", name, place, list(datasets))]


def _task_names(tree: YamlTree, data: dict[str, Any]) -> list[UserError]:
    """Tasks that claims and targets name are tasks of the study."""
    lists = [_at(data, section, "tasks") for section in ("transfer", "probe") if section in data]
    if not all(isinstance(tasks, list) for tasks in lists):
        return []
    tasks = list(dict.fromkeys(task for tasks in lists for task in tasks if isinstance(task, str)))
    named = _texts_at(data, "claims", "tasks")
    views = _at(data, "claims", "on")
    named += [(("claims", "on", claim), task) for claim, task in views.items()] if isinstance(views, dict) else []
    targets = data.get("targets")
    for number in range(len(targets) if isinstance(targets, list) else 0):
        named += _text_at(data, "targets", number, "task")
    return [error for place, name in named for error in _unknown(tree, "task", name, place, tasks)]


def _repeated_tables(tree: YamlTree, data: dict[str, Any]) -> list[UserError]:
    tables = data.get("imports")
    named = [
        item for i in range(len(tables) if isinstance(tables, list) else 0) for item in _text_at(data, "imports", i, "name")
    ]
    names = [name for _, name in named]
    return [
        tree.error(f"a table named {name} is listed already", place, "one name per table")
        for number, (place, name) in enumerate(named)
        if name in names[:number]
    ]


def _unknown(tree: YamlTree, noun: str, name: Any, place: Place, known: list[str]) -> list[UserError]:
    if name in known or not isinstance(name, str):
        return []
    return [
        tree.error(f"unknown {noun} {name!r}{did_you_mean(name, known)}", place, ", ".join(known) or f"no {noun} is defined")
    ]


def _at(data: Any, *place: str | int) -> Any:
    """The value at a place, None where the file has something else on the way."""
    for part in place:
        is_inside = (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int))
        if not is_inside:
            return None
        data = data[part]
    return data


def _text_at(data: Any, *place: str | int) -> list[tuple[Place, str]]:
    """The text at a place, with the place; empty where there is none."""
    value = _at(data, *place)
    return [(place, value)] if isinstance(value, str) else []


def _texts_at(data: Any, *place: str | int) -> list[tuple[Place, str]]:
    """The texts of a list at a place, each with its place."""
    values = _at(data, *place)
    items: Iterable[tuple[int, Any]] = enumerate(values) if isinstance(values, list) else ()
    return [((*place, number), value) for number, value in items if isinstance(value, str)]
