"""Everything in this project that depends on DeepSpeed's internals: private state, and methods that are replaced.

Other modules use DeepSpeed's documented API only. tests/test_deepspeed_internals.py has a test for each dependency, which
fails when DeepSpeed changes it; hence the narrow range of versions in pyproject.toml.

Under ZeRO the fp32 weights ("masters") and the optimizer's state are split over the workers:

    stage 0     every worker has every parameter and its state
    stage 1, 2  every worker has one range of each flattened parameter group; the model has whole parameters
    stage 3     every worker has an equal part of every parameter, padded at the end; so has the model
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

SHARED_MEMORY_OP = "deepspeed_shm_comm"


def disable_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling its shared-memory communication on a CPU: nothing here may need a compiler."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False


def skip_needless_work(engine: Any, workers: int) -> None:
    """Change a new engine so that it takes the same steps in fewer operations. Found by bench/deepspeed_overhead.py.

    One worker reduces no gradients: DeepSpeed would copy them out and in again. ZeRO 1 and 2 take one norm over all
    gradients, where DeepSpeed needs six calls for each tensor, and build no debugging message for each tensor.
    """
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if workers == 1 and stage == 0:
        engine.enable_backward_allreduce = False
    if stage not in (1, 2):
        return

    def grad_norm(gradients: Iterable[Tensor], parameters: object, norm_type: float = 2) -> Tensor:
        assert norm_type == 2
        return _total_norm(gradients, optimizer.dp_process_group, workers)

    optimizer.get_grad_norm_direct = grad_norm
    optimizer.report_ipg_memory_usage = lambda *_, **__: None
    if workers == 1:
        optimizer.buffered_reduce_fallback = lambda *_, **__: None


def gradient_norm(engine: Any, device: torch.device) -> Tensor | None:
    """The norm of the last step's gradients, NaN if it is not finite, None where DeepSpeed does not compute it.

    DeepSpeed reports a norm that is not finite as -1 or infinity, and may then skip the step without a message.
    """
    norm = engine.get_global_grad_norm()
    if norm is None:
        return None
    norm = torch.as_tensor(norm, device=device)
    return torch.where((norm >= 0) & (norm < math.inf), norm, math.nan)


def destroy_engine(engine: Any) -> None:
    """Run DeepSpeed's clean-up exactly once.

    Otherwise it runs again when the engine is garbage collected, possibly during an import: the clean-up imports modules
    itself, and Python 3.11 fails when one import starts at such a point of another.
    """
    engine.destroy()
    engine.destroy = lambda: None


class HeldRange(NamedTuple):
    """A range of one parameter that this worker holds: its fp32 weights (key None) or one entry of its optimizer state.

    `values` is a flat view of the live tensor: elements `start` to `start + len(values)` of the parameter.
    """

    key: str | None
    start: int
    values: Tensor


def held_ranges(engine: Any, parameter: Any, keys: list[str]) -> Iterator[HeldRange]:
    """What this worker holds of one parameter: its weights, and its optimizer state of these keys."""
    stage = engine.zero_optimization_stage()
    return {0: _whole, 1: _flat_range, 2: _flat_range, 3: _partition}[stage](engine, parameter, keys)


def optimizer_keys(engine: Any) -> list[str]:
    """Keys of the tensors in the optimizer's state, such as exp_avg; none before its first step."""
    states = [engine.basic_optimizer.state[tensor] for tensor in _stepped_tensors(engine)]
    return sorted({key for state in states for key, value in state.items() if key != "step" and isinstance(value, Tensor)})


def optimizer_steps(engine: Any) -> int:
    """Steps that the optimizer counts (for Adam's bias correction); 0 if it does not count."""
    counts = [engine.basic_optimizer.state[tensor].get("step", 0) for tensor in _stepped_tensors(engine)]
    return int(counts[0]) if counts else 0


def reset_optimizer(engine: Any, keys: list[str], steps: int) -> None:
    """Give the optimizer state of these keys, all zero, after this number of steps."""
    for tensor in _stepped_tensors(engine):
        counter = {"step": torch.tensor(float(steps), device=tensor.device)} if steps else {}
        engine.basic_optimizer.state[tensor] = {**counter, **{key: torch.zeros_like(tensor) for key in keys}}


@contextmanager
def loading(engine: Any) -> Iterator[None]:
    """The state may be overwritten within this context. Collective at stage 3."""
    is_partitioned = engine.zero_optimization_stage() == 3
    if is_partitioned:
        engine.optimizer.checkpoint_event_prologue()
    yield
    if is_partitioned:
        engine.optimizer.checkpoint_event_epilogue()


def set_model_weights(engine: Any, parameter: Any, read: Callable[[int, int], Tensor]) -> None:
    """Overwrite the weights that the forward pass uses, where they are a copy of the fp32 masters: `read(start, count)`."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        start, count = _partition_range(parameter)
        if count:  # a worker may hold nothing of a small parameter
            parameter.ds_tensor.data[:count].copy_(read(start, count))
    elif stage:
        parameter.data.view(-1).copy_(read(0, parameter.numel()))


@torch.no_grad()
def set_weights_from_optimizer(engine: Any, key: str) -> None:
    """Overwrite all weights with this entry of the optimizer's state. Collective."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    for master, state in engine.basic_optimizer.state.items():
        master.data.copy_(state[key])
    stage = engine.zero_optimization_stage()
    for parameter in engine.module.parameters() if stage else ():
        value = cast(Tensor, safe_get_full_fp32_param(parameter))
        with GatheredParameters([parameter], modifier_rank=0, enabled=stage == 3):
            parameter.data.copy_(value.view(parameter.shape))


def _stepped_tensors(engine: Any) -> list[Tensor]:
    """The tensors that the optimizer steps: parameters at stage 0, else this worker's flat parts of them."""
    if engine.zero_optimization_stage() == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    return [tensor for group in engine.basic_optimizer.param_groups for tensor in group["params"]]


def _whole(engine: Any, parameter: Any, keys: list[str]) -> Iterator[HeldRange]:
    """Stage 0."""
    yield HeldRange(None, 0, parameter.data.view(-1))
    for key in keys:
        yield HeldRange(key, 0, engine.basic_optimizer.state[parameter][key].view(-1))


def _flat_range(engine: Any, parameter: Any, keys: list[str]) -> Iterator[HeldRange]:
    """Stages 1 and 2: the part of the parameter, if any, in this worker's range of the flattened parameter group."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return
    start = mapping.lp_fragment_address.start
    yield HeldRange(None, start, mapping.hp_fragment.data)
    (flat,) = engine.basic_optimizer.param_groups[mapping.param_group_index]["params"]
    address = mapping.hp_fragment_address
    for key in keys:
        yield HeldRange(key, start, engine.basic_optimizer.state[flat][key].narrow(0, address.start, address.numel))


def _partition(engine: Any, parameter: Any, keys: list[str]) -> Iterator[HeldRange]:
    """Stage 3: this worker's part of the parameter, without the padding."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    start, count = _partition_range(parameter)
    if count:
        yield HeldRange(None, start, safe_get_local_fp32_param(parameter)[:count])
        for key in keys:
            yield HeldRange(key, start, safe_get_local_optimizer_state(parameter, key)[:count])


def _partition_range(parameter: Any) -> tuple[int, int]:
    """(start, count) of this worker's part of a parameter at stage 3."""
    size = parameter.ds_tensor.numel()
    start = min(size * dist.get_rank(), parameter.ds_numel)
    return start, min(size, parameter.ds_numel - start)


@torch.no_grad()
def _total_norm(gradients: Iterable[Tensor], group: Any, workers: int) -> Tensor:
    """The norm of all workers' gradients, summed in fp64; -1 if it is not finite, as DeepSpeed returns it.

    Some gradients are DeepSpeed's padding, which is zero.
    """
    tensors = list(gradients)
    device = tensors[0].device if tensors else None
    squares = torch.stack(torch._foreach_norm(tensors, 2, torch.float64)).square() if tensors else torch.zeros(1)
    total = squares.sum().float().to(device)
    if workers > 1:
        dist.all_reduce(total, group=group)
    norm = total.sqrt()
    return torch.where(norm.isfinite(), norm, -1.0)
