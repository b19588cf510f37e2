"""How one of our tensors is stored elsewhere: its names there, and the conversion in both directions.

Shapes: I inputs, O outputs, K kernel, D width, H heads, E = D / H.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Form(NamedTuple):
    """A way to store a tensor. `write` also takes the number of heads."""

    read: Callable[[list[Tensor]], Tensor]
    write: Callable[[Tensor, int], list[Tensor]]


class Entry(NamedTuple):
    """One of our tensors, the tensors that it is stored as elsewhere, and the conversion."""

    native: str
    foreign: tuple[str, ...]
    form: Form


SAME = Form(lambda parts: parts[0], lambda native, heads: [native])
DENSE = Form(lambda parts: parts[0].T, lambda native, heads: [native.T])  # (I, O) <-> (O, I)
CONV = Form(
    lambda parts: parts[0].permute(3, 2, 0, 1), lambda native, heads: [native.permute(2, 3, 1, 0)]
)  # (K, K, I, O) <-> (O, I, K, K)
PACKED = Form(torch.cat, lambda native, heads: list(native.chunk(3)))  # query, key, value <-> their concatenation
QKV_KERNEL = Form(  # three (D, H, E) <-> (3 D, D)
    lambda parts: torch.cat([part.flatten(1).T for part in parts]),
    lambda native, heads: [part.T.reshape(part.shape[1], heads, -1) for part in native.chunk(3)],
)
QKV_BIAS = Form(  # three (H, E) <-> (3 D)
    lambda parts: torch.cat([part.flatten() for part in parts]),
    lambda native, heads: [part.reshape(heads, -1) for part in native.chunk(3)],
)
OUT_KERNEL = Form(
    lambda parts: parts[0].flatten(0, 1).T, lambda native, heads: [native.T.reshape(heads, -1, native.shape[0])]
)  # (H, E, D) <-> (D, D)
DENSE_HWIO = Form(lambda parts: parts[0][0, 0].T, lambda native, heads: [native.T[None, None]])  # (1, 1, I, O) <-> (O, I)
DENSE_OIHW = Form(
    lambda parts: parts[0].flatten(1), lambda native, heads: [native[:, :, None, None]]
)  # (O, I, 1, 1) <-> (O, I)


def weight_and_bias(native: str, foreign: str, weight_name: str = "weight") -> Iterator[Entry]:
    """The two tensors of a norm, or of a layer with the same shapes elsewhere. `foreign` includes the separator."""
    yield Entry(f"{native}.weight", (f"{foreign}{weight_name}",), SAME)
    yield Entry(f"{native}.bias", (f"{foreign}{'beta' if weight_name == 'gamma' else 'bias'}",), SAME)


def dense_layer(native: str, foreign: str) -> Iterator[Entry]:
    """The two tensors of a dense layer of flax."""
    yield Entry(f"{native}.weight", (f"{foreign}/kernel",), DENSE)
    yield Entry(f"{native}.bias", (f"{foreign}/bias",), SAME)
