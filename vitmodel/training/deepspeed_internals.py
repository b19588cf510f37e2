"""Parts of DeepSpeed's ZeRO 1 and 2 in fewer operations, with the same numbers. Found by bench/deepspeed_overhead.py.

They replace private methods of one optimizer, hence the narrow range of DeepSpeed's version; tests/test_engine.py compares
with the methods that are replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def make_lean(optimizer: Any, workers: int) -> None:
    """Change this ZeRO optimizer of stage 1 or 2: one norm over all gradients, and no reduction where nobody shares."""

    def grad_norm(gradients: Iterable[Tensor], parameters: object, norm_type: float = 2) -> Tensor:
        assert norm_type == 2
        return _norm(gradients, optimizer.dp_process_group, workers)

    optimizer.get_grad_norm_direct = grad_norm
    optimizer.report_ipg_memory_usage = lambda *_, **__: None  # a text for a debugging aid that is off, made for every tensor
    if workers == 1:  # gradients would be copied out and in again to be shared with nobody
        optimizer.buffered_reduce_fallback = lambda *_, **__: None


@torch.no_grad()
def _norm(gradients: Iterable[Tensor], group: Any, workers: int) -> Tensor:
    """The norm of all workers' gradients, summed in fp64; -1 for one that is no number, as DeepSpeed says it.

    DeepSpeed converts each gradient to fp64 and takes its norm, one by one: six calls a tensor.
    """
    own = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)]
    device = own[0].device if own else None
    squares = torch.stack(torch._foreach_norm(own, 2, torch.float64)).square() if own else torch.zeros(1)
    total = squares.sum().float().to(device)
    if workers > 1:
        dist.all_reduce(total, group=group)
    norm = total.sqrt()
    return torch.where(norm.isfinite(), norm, -1.0)
