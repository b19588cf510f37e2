"""The axes of a study combined: grid or zip, then include, then exclude. Knows values, not runs."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.schema import Cut, Length, Size
from orchestrator.spec import StudyFile
from orchestrator.yamltree import Place

Point = tuple[int, Size, Length, int]  # number of the model, size, length, seed


def points(file: StudyFile) -> list[Point]:
    """The axes combined: grid or zip, then include, then exclude."""
    pretrain = file.study.pretrain
    found = list(_zipped(file) if pretrain.combine == "zip" else _grid(file))
    for number, cut in enumerate(pretrain.include):
        found.append(_included(file, cut, number))
    for number, cut in enumerate(pretrain.exclude):
        kept = [point for point in found if not _matches(file, cut, point)]
        if len(kept) == len(found):
            raise file.tree.error("excludes nothing", ("pretrain", "exclude", number))
        found = kept
    return found


def _grid(file: StudyFile) -> Iterator[Point]:
    pretrain = file.study.pretrain
    for number, entry in enumerate(pretrain.models):
        for size in pretrain.sizes:
            for length in entry.lengths or pretrain.lengths:
                for seed in file.study.seeds:
                    yield number, size, length, seed


def _zipped(file: StudyFile) -> Iterator[Point]:
    pretrain = file.study.pretrain
    counts = {"models": len(pretrain.models), "sizes": len(pretrain.sizes), "lengths": len(pretrain.lengths)}
    longest = max(counts.values())
    for name, count in counts.items():
        if count not in (1, longest):
            raise file.tree.error(
                f"zip needs axes of equal length, {name} has {count}", ("pretrain", name), f"1 or {longest} values"
            )
    for i in range(longest):  # an axis of one value keeps it throughout
        number, size, length = i % counts["models"], i % counts["sizes"], i % counts["lengths"]
        for seed in file.study.seeds:
            yield number, pretrain.sizes[size], pretrain.lengths[length], seed


def _included(file: StudyFile, cut: Cut, number: int) -> Point:
    pretrain = file.study.pretrain
    variants = [entry.model.variant for entry in pretrain.models]
    place: Place = ("pretrain", "include", number)
    if cut.model not in variants or cut.size is None:
        raise file.tree.error("include names one model of the list and one size", place, ", ".join(variants))
    length = Length(epochs=cut.epochs) if cut.epochs is not None else pretrain.lengths[0]
    return variants.index(cut.model), cut.size, length, file.study.seeds[0] if cut.seed is None else cut.seed


def _matches(file: StudyFile, cut: Cut, point: Point) -> bool:
    number, size, length, seed = point
    asked = {"model": cut.model, "size": cut.size, "epochs": cut.epochs, "seed": cut.seed}
    has = {"model": file.study.pretrain.models[number].model.variant, "size": size, "epochs": length.epochs, "seed": seed}
    return all(value is None or value == has[axis] for axis, value in asked.items())
