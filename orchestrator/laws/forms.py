"""The forms of scaling laws: what each says error does as x grows, its bounds, and where a search for it starts.

A form is y = scale * shape(theta, z), z = x / its geometric mean over the fitted points. The scale is solved for exactly
(variable projection), so a form lists only theta. Everything is in logarithms and works on a batch of theta (B, k) at
once: log_shape(theta, z) has shape (B, n), and z is (n,), (B, n) for a row of its own each, or (n, 2) for two columns.
Exponents are positive for falling error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.laws import shapes
from orchestrator.laws.points import Array

Natural = Callable[[Array, float, Array], dict[str, float]]

STEEPEST = 3.0  # exponents above this are steps, not laws
FAR = 12.0  # exp(-12): an asymptote this far below the scale is none


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One searched parameter: its name, its bounds, and how many grid values a search starts from."""

    name: str
    low: float
    high: float
    starts: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """A scaling law's formula. `natural` turns theta, the log scale and the centre of x into parameters in x's own unit."""

    name: str
    formula: str
    source: str
    axes: tuple[Axis, ...]
    log_shape: Callable[[Array, Array], Array]
    natural: Natural
    columns: int = 1
    many_starts: int = 0  # points of a low-discrepancy sequence instead of a grid
    scale_is_chance: bool = False  # a known chance level is the scale

    @property
    def parameters(self) -> int:
        """Free parameters, the scale included."""
        return len(self.axes) + 1


# --- the table ------------------------------------------------------------------------------------------------

_EXPONENT = Axis(name="c", low=0.0, high=STEEPEST, starts=16)
_FLOOR = Axis(name="e", low=-FAR, high=6.0, starts=14)
_BREAK = (
    Axis(name="c_i", low=-STEEPEST, high=STEEPEST, starts=0),
    Axis(name="d_i", low=-5.0, high=5.0, starts=0),
    Axis(name="f_i", low=-3.0, high=1.0, starts=0),
)
_BROKEN = (Axis(name="c0", low=-1.0, high=STEEPEST, starts=0), Axis(name="e", low=-FAR, high=3.0, starts=0))
_REVISITING = "Alabdulmohsin et al. 2022, arXiv 2209.06640"
_BNSL = "Caballero et al. 2023, arXiv 2210.14891"


def _numbered(number: int) -> tuple[Axis, ...]:
    return tuple(
        Axis(name=axis.name.replace("_i", str(number)), low=axis.low, high=axis.high, starts=axis.starts) for axis in _BREAK
    )


FLAT = Form(
    name="flat", formula="y = e", source="no trend beyond chance", axes=(), log_shape=shapes.flat, natural=shapes.flat_natural
)  # what `auto` gives a curve that does not fall
FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        FLAT,
        Form(
            name="M1",
            formula="y = a x^-c",
            source=_REVISITING,
            axes=(_EXPONENT,),
            log_shape=shapes.power,
            natural=shapes.power_natural,
        ),
        Form(
            name="M2",
            formula="y = a x^-c + e",
            source=_REVISITING,
            axes=(_EXPONENT, _FLOOR),
            log_shape=shapes.power_floor,
            natural=shapes.power_floor_natural,
        ),
        Form(
            name="M3",
            formula="y = a (1/x + gamma)^c",
            source=_REVISITING,
            axes=(_EXPONENT, Axis(name="gamma", low=-FAR, high=6.0, starts=14)),
            log_shape=shapes.bent_power,
            natural=shapes.bent_natural,
        ),
        Form(
            name="M4",
            formula="(y - e) / (chance - y)^alpha = beta x^-c",
            source=_REVISITING,
            axes=(
                Axis(name="c", low=0.0, high=STEEPEST, starts=5),
                Axis(name="beta", low=-15.0, high=15.0, starts=8),
                Axis(name="alpha", low=-4.0, high=4.0, starts=3),
                Axis(name="e", low=-FAR, high=-1e-3, starts=5),
            ),
            log_shape=shapes.sigmoid_power,
            natural=shapes.sigmoid_natural,
            scale_is_chance=True,
        ),
        Form(
            name="zhai",
            formula="y = a (x + d)^-c + e",
            source="Zhai et al. 2022, arXiv 2106.04560",
            axes=(
                Axis(name="c", low=0.0, high=STEEPEST, starts=10),
                Axis(name="d", low=-6.0, high=6.0, starts=7),
                Axis(name="e", low=-FAR, high=6.0, starts=9),
            ),
            log_shape=shapes.shifted_power_floor,
            natural=shapes.shifted_natural,
        ),
        Form(
            name="bnsl1",
            formula="y = e + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1)",
            source=_BNSL,
            axes=(*_BROKEN, *_numbered(1)),
            log_shape=shapes.broken_power,
            natural=shapes.broken_natural,
            many_starts=1024,
        ),
        Form(
            name="bnsl2",
            formula="y = e + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i), i = 1, 2",
            source=_BNSL,
            axes=(*_BROKEN, *_numbered(1), *_numbered(2)),
            log_shape=shapes.broken_power,
            natural=shapes.broken_natural,
            many_starts=2048,
        ),
        Form(
            name="L(N,D)",
            formula="y = E + A N^-a + B D^-b",
            source="Hoffmann et al. 2022, arXiv 2203.15556, equation 2",
            axes=(
                Axis(name="a", low=0.0, high=STEEPEST, starts=6),
                Axis(name="b", low=0.0, high=STEEPEST, starts=6),
                Axis(name="B", low=-FAR, high=FAR, starts=7),
                Axis(name="E", low=-FAR, high=6.0, starts=7),
            ),
            log_shape=shapes.two_powers,
            natural=shapes.two_natural,
            columns=2,
        ),
    )
}
