"""The state of a training as named ranges of flat tensors, the same for any ZeRO stage and any number of workers.

A piece is a range of one parameter's fp32 weights, of one entry of its optimizer state, of a buffer, or of a further tensor
that every worker has. Which worker holds which range depends on the stage and the workers; names and ranges do not. So a
group of workers can load what any other group saved. How DeepSpeed holds the ranges: deepspeed_internals.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitmodel.training.deepspeed_internals import held_ranges, loading, optimizer_keys, reset_optimizer, set_model_weights

WEIGHT, BUFFER, EXTRA = "weight", "buffer", "beside"  # kinds of pieces, as shards of checkpoints name them

Read = Callable[[str, str, int, int], Tensor]  # (kind, name, start, count) -> that range, flat


class Piece(NamedTuple):
    """`values` is a live, flat view: elements `start` to `start + len(values)` of the tensor with this kind and name."""

    kind: str  # weight, buffer, beside (an extra tensor), or a key of the optimizer's state
    name: str
    start: int
    values: Tensor


def owned_pieces(engine: Any, extra: Mapping[str, Tensor], worker: int, workers: int) -> Iterator[Piece]:
    """The pieces that this worker saves: over all workers, every element exactly once."""
    for piece, is_replicated in _held_pieces(engine, extra, optimizer_keys(engine)):
        if not is_replicated:
            yield piece
            continue
        low, high = (len(piece.values) * part // workers for part in (worker, worker + 1))
        if high > low:
            yield Piece(piece.kind, piece.name, low, piece.values[low:high])


@torch.no_grad()
def restore(engine: Any, extra: Mapping[str, Tensor], read: Read, keys: list[str], steps: int) -> None:
    """Fill everything that this worker holds from `read`. Collective at ZeRO stage 3."""
    reset_optimizer(engine, keys, steps)
    with loading(engine):
        for (kind, name, start, values), _ in _held_pieces(engine, extra, keys):
            values.copy_(read(kind, name, start, len(values)))
        for name, parameter in engine.module.named_parameters():
            set_model_weights(engine, parameter, partial(read, WEIGHT, name))


def _held_pieces(engine: Any, extra: Mapping[str, Tensor], keys: list[str]) -> Iterator[tuple[Piece, bool]]:
    """(piece, whether every worker holds the same) for all that this worker holds."""
    is_replicated = engine.zero_optimization_stage() == 0
    for name, parameter in engine.module.named_parameters():
        for key, start, values in held_ranges(engine, parameter, keys):
            yield Piece(key or WEIGHT, name, start, values), is_replicated
    for kind, tensors in ((BUFFER, dict(engine.module.named_buffers())), (EXTRA, extra)):
        for name, tensor in tensors.items():
            yield Piece(kind, name, 0, tensor.data.view(-1)), True


class RangeReader:
    """Reads any range of a tensor from saved pieces, whatever ranges they were saved as."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[str, str], list[tuple[int, int, Callable[[int, int], Tensor]]]] = defaultdict(list)

    def add(self, kind: str, name: str, start: int, count: int, load: Callable[[int, int], Tensor]) -> None:
        """Add a piece; `load(a, b)` returns its elements a to b, counted within the piece."""
        self._pieces[kind, name].append((start, count, load))

    def read(self, kind: str, name: str, start: int, count: int) -> Tensor:
        """One range. Raises KeyError if the pieces do not cover it."""
        parts = []
        for first, size, load in sorted(self._pieces[kind, name], key=lambda piece: piece[0]):
            low, high = max(start, first), min(start + count, first + size)
            if low < high:
                parts.append(load(low - first, high - first))
        if (length := sum(map(len, parts))) != count:
            raise KeyError(f"the checkpoint has {length} of {count} elements of {kind} {name}, from element {start}")
        return torch.cat(parts) if len(parts) > 1 else parts[0]
