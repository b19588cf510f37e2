"""The state of a training under DeepSpeed as named pieces of flat tensors, whatever the ZeRO stage and the number of workers.

A piece is a range of one parameter's fp32 value, of one of its optimizer moments, of a buffer, or of a further tensor
that every worker holds. Who holds which range depends on stage and workers; names and ranges do not. So what one
group of workers wrote, any other group can read. All knowledge of DeepSpeed's insides that this takes is in this file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

WEIGHT, BUFFER, BESIDE = "weight", "buffer", "beside"

Read = Callable[[str, str, int, int], Tensor]  # (kind, name, start, count) -> that range, flat


class Piece(NamedTuple):
    """`values` is a live, flat view: elements `start` to `start + len(values)` of what kind and name say."""

    kind: str
    name: str
    start: int
    values: Tensor


def optimizer_kinds(engine: Any) -> list[str]:
    """Names of the optimizer's moments, such as exp_avg; none before its first step."""
    states = [engine.basic_optimizer.state[tensor] for tensor in _stepped(engine)]
    return sorted({key for state in states for key, value in state.items() if key != "step" and isinstance(value, Tensor)})


def optimizer_steps(engine: Any) -> int:
    """Steps that the optimizer counts (Adam's bias correction); 0 where it counts none."""
    counts = [engine.basic_optimizer.state[tensor].get("step", 0) for tensor in _stepped(engine)]
    return int(counts[0]) if counts else 0


def owned(engine: Any, beside: Mapping[str, Tensor], worker: int, workers: int) -> Iterator[Piece]:
    """This worker's part of the state: over all workers, every element exactly once."""
    for piece, is_replicated in _held(engine, beside, optimizer_kinds(engine)):
        if not is_replicated:
            yield piece
            continue
        low, high = (len(piece.values) * part // workers for part in (worker, worker + 1))
        if high > low:
            yield Piece(piece.kind, piece.name, low, piece.values[low:high])


@torch.no_grad()
def restore(engine: Any, beside: Mapping[str, Tensor], read: Read, kinds: list[str], steps: int) -> None:
    """Fill everything that this worker holds from `read`. Collective at ZeRO stage 3."""
    for tensor in _stepped(engine):
        counter = {"step": torch.tensor(float(steps), device=tensor.device)} if steps else {}
        engine.basic_optimizer.state[tensor] = {**counter, **{kind: torch.zeros_like(tensor) for kind in kinds}}
    stage = engine.zero_optimization_stage()
    if stage == 3:
        engine.optimizer.checkpoint_event_prologue()
    for (kind, name, start, values), _ in _held(engine, beside, kinds):
        values.copy_(read(kind, name, start, len(values)))
    for name, parameter in engine.module.named_parameters():  # the copies that the forward pass uses
        if stage == 3:
            start, count = _partition(parameter)
            parameter.ds_tensor.data[:count].copy_(read(WEIGHT, name, start, count))
        elif stage:
            parameter.data.view(-1).copy_(read(WEIGHT, name, 0, parameter.numel()))
    if stage == 3:
        engine.optimizer.checkpoint_event_epilogue()


def _held(engine: Any, beside: Mapping[str, Tensor], kinds: list[str]) -> Iterator[tuple[Piece, bool]]:
    """(piece, whether every worker holds the same) for all that this worker holds."""
    stage = engine.zero_optimization_stage()
    of_parameter = {0: _replicated, 1: _flat, 2: _flat, 3: _sharded}[stage]
    for name, parameter in engine.module.named_parameters():
        for piece in of_parameter(engine, name, parameter, kinds):
            yield piece, stage == 0
    for kind, tensors in ((BUFFER, dict(engine.module.named_buffers())), (BESIDE, beside)):
        for name, tensor in tensors.items():
            yield Piece(kind, name, 0, tensor.data.view(-1)), True


def _replicated(engine: Any, name: str, parameter: Tensor, kinds: list[str]) -> Iterator[Piece]:
    """Stage 0: everything of every parameter."""
    yield Piece(WEIGHT, name, 0, parameter.data.view(-1))
    for kind in kinds:
        yield Piece(kind, name, 0, engine.basic_optimizer.state[parameter][kind].view(-1))


def _flat(engine: Any, name: str, parameter: Any, kinds: list[str]) -> Iterator[Piece]:
    """Stages 1 and 2: the part of the parameter, if any, that lies in this worker's range of its flat parameter group."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return
    yield Piece(WEIGHT, name, mapping.lp_fragment_address.start, mapping.hp_fragment.data)
    group = engine.basic_optimizer.param_groups[mapping.param_group_index]
    place = mapping.hp_fragment_address
    for kind in kinds:
        moments = engine.basic_optimizer.state[group["params"][0]][kind]
        yield Piece(kind, name, mapping.lp_fragment_address.start, moments.narrow(0, place.start, place.numel))


def _sharded(engine: Any, name: str, parameter: Any, kinds: list[str]) -> Iterator[Piece]:
    """Stage 3: this worker's equal part of the parameter, without the padding at its end."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    start, count = _partition(parameter)
    if count:
        yield Piece(WEIGHT, name, start, safe_get_local_fp32_param(parameter)[:count])
        for kind in kinds:
            yield Piece(kind, name, start, safe_get_local_optimizer_state(parameter, kind)[:count])


def _partition(parameter: Any) -> tuple[int, int]:
    """(start, count) of this worker's part of a parameter at stage 3."""
    size = parameter.ds_tensor.numel()
    start = min(size * dist.get_rank(), parameter.ds_numel)
    return start, min(size, parameter.ds_numel - start)


def _stepped(engine: Any) -> list[Tensor]:
    """The tensors that the optimizer steps: parameters, or flat parts of them."""
    if engine.zero_optimization_stage() == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    return [tensor for group in engine.basic_optimizer.param_groups for tensor in group["params"]]


class Stitched:
    """Ranges out of pieces that lie in several places, however they were cut when they were written."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[str, str], list[tuple[int, int, Callable[[int, int], Tensor]]]] = defaultdict(list)

    def add(self, kind: str, name: str, start: int, count: int, load: Callable[[int, int], Tensor]) -> None:
        """A piece whose elements a to b (counted within it) `load(a, b)` returns."""
        self._pieces[kind, name].append((start, count, load))

    def read(self, kind: str, name: str, start: int, count: int) -> Tensor:
        """One range. Raises KeyError where the pieces do not cover it."""
        found = []
        for first, size, load in sorted(self._pieces[kind, name], key=lambda piece: piece[0]):
            low, high = max(start, first), min(start + count, first + size)
            if low < high:
                found.append(load(low - first, high - first))
        if (length := sum(map(len, found))) != count:
            raise KeyError(f"{kind} of {name}: {length} of {count} elements from {start}")
        return torch.cat(found) if len(found) > 1 else found[0]
