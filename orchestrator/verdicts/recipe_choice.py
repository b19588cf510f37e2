"""The best recipe of each model, data size and length: rows that differ only in a swept recipe key compete for one point.

The candidate with the lowest mean error over its seeds is chosen. The best of several noisy runs looks better than it is, so
each point also states by how much (`optimism`, in log error), and fits of laws add it. Pure functions of points.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from orchestrator.results.summary import count, family_name
from orchestrator.verdicts.answers import CurvePoint, LeftOut

SWEPT = re.compile(r"[A-Za-z_][\w.]*=\S+")  # `lr=1e-3`, as names of variants have it where a recipe key is an axis
DRAWS = 2000
SEED = 20224
MIN_TREND_FREEDOM = 3
Sweeps: TypeAlias = dict[tuple[Hashable, ...], dict[str, list[CurvePoint]]]  # setting -> recipe -> its seeds


@dataclass(frozen=True, kw_only=True)
class RecipeChoice:
    """The points with the best recipes, the points that were left out, and what a reader must know about the sweeps."""

    points: tuple[CurvePoint, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def split_recipe(variant: str, recipe: str) -> tuple[str, str]:
    """The model and the recipe label of a row: (`B/16`, `lr=0.001`) for variant `B/16 lr=0.001`."""
    words = variant.split()
    keys = [word for word in words if SWEPT.fullmatch(word)]
    label = " ".join(keys) or recipe
    return (" ".join(word for word in words if word not in keys) or variant, label)


def setting(point: CurvePoint) -> tuple[Hashable, ...]:
    """The model, data size and length of a point: candidates of one setting differ in recipe and seed only."""
    return (point.family, point.variant, point.dataset, point.dataset_size, str(point.epochs))


def choose_recipes(points: Sequence[CurvePoint], *, is_measured: bool = True) -> RecipeChoice:
    """The points with the best recipe of each setting, with their optimism.

    is_measured: the spread between seeds is known; else the noise is that of the best points about a power law, if it can be
    determined.
    """
    sweeps: Sweeps = {}
    for point in points:
        sweeps.setdefault(setting(point), {}).setdefault(point.recipe, []).append(point)
    effects = {family: FamilyEffects.of(_of_family(sweeps, family)) for family in {str(key[0]) for key in sweeps}}
    noise = {} if is_measured else {family: _noise_of_best(_of_family(sweeps, family)) for family in effects}
    kept: list[CurvePoint] = []
    left_out: list[LeftOut] = []
    for key, recipes in sweeps.items():
        best = min(sorted(recipes), key=lambda label: _mean(recipes[label]))
        bias = optimism(recipes, effects[str(key[0])], noise.get(str(key[0])))
        kept += [replace(p, optimism=bias) for p in recipes[best]]
        left_out += [
            LeftOut(family=p.family, variant=p.variant, dataset_size=p.dataset_size, runs=p.runs, reason=f"{best} is better")
            for label, others in recipes.items()
            if label != best
            for p in others
        ]
    return RecipeChoice(points=tuple(kept), left_out=tuple(left_out), notes=(*_edges(sweeps), *_unequal(sweeps)))


@dataclass(frozen=True, kw_only=True)
class FamilyEffects:
    """What the recipes do to the log error of a family: the mean effect of each recipe over all settings, and the standard
    deviation of single settings about these (`scatter`), which is noise and true interaction."""

    recipes: Mapping[str, float]
    scatter: float

    @staticmethod
    def of(sweeps: Sequence[Mapping[str, Sequence[CurvePoint]]]) -> FamilyEffects:
        """Settings with a single recipe have no information. With a single sweep all differences count as scatter."""
        found: dict[str, list[float]] = {}
        for recipes in sweeps:
            for label, value in _deviations(recipes).items():
                found.setdefault(label, []).append(value)
        freedom = sum(len(recipes) - 1 for recipes in sweeps) - (len(found) - 1)
        means = {label: float(np.mean(values)) if freedom > 0 else 0.0 for label, values in found.items()}
        squares = sum((value - means[label]) ** 2 for label, values in found.items() for value in values)
        freedom = freedom if freedom > 0 else sum(len(recipes) - 1 for recipes in sweeps)
        return FamilyEffects(recipes=means, scatter=math.sqrt(squares / freedom) if freedom > 0 else 0.0)


def optimism(recipes: Mapping[str, Sequence[CurvePoint]], effects: FamilyEffects, noise_of_run: float | None = None) -> float:
    """By how much (log error, from 0) the best of these candidates is expected to look better than it is.

    The candidates' errors without noise are estimated by shrinking them to the family's effects, by the share of the scatter
    that is noise: otherwise differences that noise made would be taken for differences of recipes. Then noise is added, and
    the best is chosen again. Noise is not larger than the scatter.
    """
    labels = list(recipes)
    noise = np.minimum([_noise(recipes[label], noise_of_run) for label in labels], effects.scatter)
    if len(labels) < 2 or not (noise > 0).any():
        return 0.0
    expected = np.array([effects.recipes[label] for label in labels])
    found = _deviations(recipes)
    true = expected + (1 - (noise / effects.scatter) ** 2) * (np.array([found[label] for label in labels]) - expected)
    drawn = noise * np.random.default_rng(SEED).standard_normal((DRAWS, len(labels)))
    chosen = np.argmin(true + drawn, axis=1)
    return max(0.0, -float(drawn[np.arange(DRAWS), chosen].mean()))


def _deviations(recipes: Mapping[str, Sequence[CurvePoint]]) -> dict[str, float]:
    """Mean log error of each recipe, relative to the mean over the recipes of the setting; empty for a single recipe."""
    means = {label: _mean(group) for label, group in recipes.items()}
    middle = float(np.mean(list(means.values())))
    return {label: value - middle for label, value in means.items()} if len(means) > 1 else {}


def _noise_of_best(sweeps: Sequence[Mapping[str, Sequence[CurvePoint]]]) -> float | None:
    """The noise of a run, from the scatter of the best points: the best of k equal runs scatters less than a single one."""
    spread = noise_about_trend([p for recipes in sweeps for p in min(recipes.values(), key=_mean)])
    tried = round(float(np.mean([len(recipes) for recipes in sweeps])))
    drawn = np.random.default_rng(SEED).standard_normal((DRAWS, tried))
    return None if spread is None else spread / float(drawn.min(axis=1).std())


def noise_about_trend(points: Sequence[CurvePoint]) -> float | None:
    """Standard deviation of log error about a power law of compute and data; None if three degrees of freedom are missing."""
    known = [p for p in points if p.pretrain_flops > 0]
    if not known:
        return None
    x = np.log([[math.e, p.pretrain_flops, p.dataset_size] for p in known])
    log_y = np.log([p.error for p in known])
    slopes, _, rank, _ = np.linalg.lstsq(x, log_y, rcond=1e-9)
    rest = log_y - x @ slopes
    freedom = len(known) - int(rank)
    return math.sqrt(float(rest @ rest) / freedom) if freedom >= MIN_TREND_FREEDOM else None


def _noise(group: Sequence[CurvePoint], noise_of_run: float | None) -> float:
    """Standard deviation of the mean log error over seeds, without the noise of the test set that all recipes share."""
    if noise_of_run is not None:
        return noise_of_run / math.sqrt(len(group))
    seeds = float(np.mean([max(p.spread**2 - p.noise**2, 0.0) for p in group]))
    return math.sqrt(seeds / len(group))


def _of_family(sweeps: Sweeps, family: str) -> list[dict[str, list[CurvePoint]]]:
    return [recipes for key, recipes in sweeps.items() if key[0] == family]


def _mean(group: Sequence[CurvePoint]) -> float:
    return float(np.mean([math.log(p.error) for p in group]))


def _edges(sweeps: Sweeps) -> list[str]:
    """A note for each family and swept key whose best value is the smallest or largest one that was tried."""
    found: dict[tuple[str, str], list[str]] = {}
    total: dict[tuple[str, str], int] = {}
    for key, recipes in sweeps.items():
        best = _values(min(sorted(recipes), key=lambda label: _mean(recipes[label])))
        tried = [_values(label) for label in recipes]
        for name in best:
            values = sorted({values[name] for values in tried if name in values})
            if len(values) < 2 or not all(isinstance(value, float) for value in values):
                continue
            group = (str(key[0]), name)
            total[group] = total.get(group, 0) + 1
            if best[name] in (values[0], values[-1]):
                found.setdefault(group, []).append(f"{key[1]} on {count(int(str(key[3])))} images")
    return [
        f"{family_name(family)}: the best {name} is at the edge of its sweep for {len(where)} of {total[family, name]} points "
        f"({', '.join(where[:3])}{', ...' if len(where) > 3 else ''})"
        for (family, name), where in found.items()
    ]


def _values(label: str) -> dict[str, float | str]:
    """The keys of a recipe label with their values, as numbers where they are."""
    values: dict[str, float | str] = {}
    for word in label.split():
        name, _, text = word.partition("=")
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = text
    return values


def _unequal(sweeps: Sweeps) -> tuple[str, ...]:
    """A note if one family had more recipes to choose from than another."""
    families = sorted({str(key[0]) for key in sweeps})
    tried = {family: float(np.mean([len(recipes) for recipes in _of_family(sweeps, family)])) for family in families}
    if len(families) < 2 or max(tried.values()) < 1.25 * min(tried.values()):
        return ()
    return (f"swept unequally: {', '.join(f'{family_name(f)} {n:.2g} recipes a point' for f, n in tried.items())}",)
