"""The functional forms of scaling laws: formula, parameters with their bounds, and starting points of the search.

A form is y = scale * shape(theta, z), z = x / its geometric mean over the fitted points. The scale is solved for exactly
(variable projection), so a form lists only theta. Everything is in logarithms and works on a batch of theta (B, k):
log_shape(theta, z) has shape (B, n), and z is (n,), (B, n) for one row per theta, or (n, 2) for two columns.
Exponents are positive for falling error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.laws import shapes
from orchestrator.laws.points import Array

Natural = Callable[[Array, float, Array], dict[str, float]]

MAX_EXPONENT = 3.0  # a larger exponent describes a step, not a scaling law
FAR = 12.0  # in log error: an asymptote exp(-12) times the scale or lower has no effect


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of theta: its name, its bounds, and the number of grid values that a search starts from."""

    name: str
    low: float
    high: float
    starts: int


@dataclass(frozen=True, kw_only=True)
class FunctionalForm:
    """A scaling law's formula. `natural` turns theta, the log scale and the centre of x into parameters in the unit of x."""

    name: str
    formula: str
    source: str
    parameters: tuple[Parameter, ...]
    log_shape: Callable[[Array, Array], Array]
    natural: Natural
    columns: int = 1
    sequence_points: int = 0  # starting points from a low-discrepancy sequence of this length instead of a grid
    scale_is_chance: bool = False  # a known chance level is the scale

    @property
    def num_parameters(self) -> int:
        """Free parameters, including the scale."""
        return len(self.parameters) + 1


_EXPONENT = Parameter(name="c", low=0.0, high=MAX_EXPONENT, starts=16)
_FLOOR = Parameter(name="e", low=-FAR, high=6.0, starts=14)
_BREAK = (
    Parameter(name="c_i", low=-MAX_EXPONENT, high=MAX_EXPONENT, starts=0),
    Parameter(name="d_i", low=-5.0, high=5.0, starts=0),
    Parameter(name="f_i", low=-3.0, high=1.0, starts=0),
)
_BROKEN = (Parameter(name="c0", low=-1.0, high=MAX_EXPONENT, starts=0), Parameter(name="e", low=-FAR, high=3.0, starts=0))
_REVISITING = "Alabdulmohsin et al. 2022, arXiv 2209.06640"
_BNSL = "Caballero et al. 2023, arXiv 2210.14891"


def _numbered(number: int) -> tuple[Parameter, ...]:
    return tuple(Parameter(name=p.name.replace("_i", str(number)), low=p.low, high=p.high, starts=p.starts) for p in _BREAK)


FLAT = FunctionalForm(
    name="flat",
    formula="y = e",
    source="no significant trend",
    parameters=(),
    log_shape=shapes.flat,
    natural=shapes.flat_natural,
)  # chosen by `auto` for a curve without a falling trend
FORMS: dict[str, FunctionalForm] = {
    form.name: form
    for form in (
        FLAT,
        FunctionalForm(
            name="M1",
            formula="y = a x^-c",
            source=_REVISITING,
            parameters=(_EXPONENT,),
            log_shape=shapes.power,
            natural=shapes.power_natural,
        ),
        FunctionalForm(
            name="M2",
            formula="y = a x^-c + e",
            source=_REVISITING,
            parameters=(_EXPONENT, _FLOOR),
            log_shape=shapes.power_floor,
            natural=shapes.power_floor_natural,
        ),
        FunctionalForm(
            name="M3",
            formula="y = a (1/x + gamma)^c",
            source=_REVISITING,
            parameters=(_EXPONENT, Parameter(name="gamma", low=-FAR, high=6.0, starts=14)),
            log_shape=shapes.bent_power,
            natural=shapes.bent_natural,
        ),
        FunctionalForm(
            name="M4",
            formula="(y - e) / (chance - y)^alpha = beta x^-c",
            source=_REVISITING,
            parameters=(
                Parameter(name="c", low=0.0, high=MAX_EXPONENT, starts=5),
                Parameter(name="beta", low=-15.0, high=15.0, starts=8),
                Parameter(name="alpha", low=-4.0, high=4.0, starts=3),
                Parameter(name="e", low=-FAR, high=-1e-3, starts=5),
            ),
            log_shape=shapes.sigmoid_power,
            natural=shapes.sigmoid_natural,
            scale_is_chance=True,
        ),
        FunctionalForm(
            name="zhai",
            formula="y = a (x + d)^-c + e",
            source="Zhai et al. 2022, arXiv 2106.04560",
            parameters=(
                Parameter(name="c", low=0.0, high=MAX_EXPONENT, starts=10),
                Parameter(name="d", low=-6.0, high=6.0, starts=7),
                Parameter(name="e", low=-FAR, high=6.0, starts=9),
            ),
            log_shape=shapes.shifted_power_floor,
            natural=shapes.shifted_natural,
        ),
        FunctionalForm(
            name="bnsl1",
            formula="y = e + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1)",
            source=_BNSL,
            parameters=(*_BROKEN, *_numbered(1)),
            log_shape=shapes.broken_power,
            natural=shapes.broken_natural,
            sequence_points=1024,
        ),
        FunctionalForm(
            name="bnsl2",
            formula="y = e + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i), i = 1, 2",
            source=_BNSL,
            parameters=(*_BROKEN, *_numbered(1), *_numbered(2)),
            log_shape=shapes.broken_power,
            natural=shapes.broken_natural,
            sequence_points=2048,
        ),
        FunctionalForm(
            name="L(N,D)",
            formula="y = E + A N^-a + B D^-b",
            source="Hoffmann et al. 2022, arXiv 2203.15556, equation 2",
            parameters=(
                Parameter(name="a", low=0.0, high=MAX_EXPONENT, starts=6),
                Parameter(name="b", low=0.0, high=MAX_EXPONENT, starts=6),
                Parameter(name="B", low=-FAR, high=FAR, starts=7),
                Parameter(name="E", low=-FAR, high=6.0, starts=7),
            ),
            log_shape=shapes.two_powers,
            natural=shapes.two_natural,
            columns=2,
        ),
    )
}
