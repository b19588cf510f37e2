"""DeepSpeed's engine around a module: optimizer, ZeRO stage, precision, clipping. One configuration for CPU and GPU."""

from __future__ import annotations

import logging
import os
import re
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitmodel.config.recipe import Recipe
from vitmodel.training.averaging import add_average
from vitmodel.training.deepspeed_internals import disable_shared_memory_op, skip_needless_work

LARGEST_BUCKET = 500_000_000  # elements; DeepSpeed's own default
NO_WEIGHT_DECAY = ("pos_embed", "cls_token", "mask_token")
_LAYER_NAMES = re.compile(r"(?:encoder\.)?(?:blocks\.(?P<block>\d+)\.|patch_embed\.|pos_embed$|cls_token$)")


def device() -> torch.device:
    """The accelerator of this process, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def import_deepspeed() -> Any:
    """Import DeepSpeed with its logging reduced to errors, and on a CPU without just-in-time compilation."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        disable_shared_memory_op()
    return deepspeed


def ensure_process_group() -> tuple[int, int]:
    """(rank, world size). If there is no process group, starts one from torchrun's environment, or for this process alone."""
    if torch.cuda.is_available():  # with Ray Train and torchrun every worker sees all GPUs of its node
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        for name, value in alone.items():
            os.environ.setdefault(name, value)
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def leave_process_group() -> None:
    """End the process group of a program under torchrun; without this a worker may abort at exit. Collective."""
    dist.barrier()
    dist.destroy_process_group()


def resolve_precision(recipe: Recipe) -> str:
    """`auto` is bf16 on an accelerator and fp32 on a CPU."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if torch.cuda.is_available() else "fp32"


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of a recipe. Weight decay applies to matrices and kernels only, never to biases, norms, class and mask
    tokens or position embeddings.

    Each parameter group has `lr_scale`, its share of the learning rate: 1, or with layer decay less for deeper layers.
    """
    named = dict(module.named_parameters())
    scales = layer_scales(list(named), recipe.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        is_undecayed = parameter.ndim <= 1 or name.rpartition(".")[2] in NO_WEIGHT_DECAY
        groups.setdefault((scales[name], 0.0 if is_undecayed else recipe.weight_decay), []).append(parameter)
    settings = [
        {"params": groups[scale, decay], "weight_decay": decay, "lr_scale": scale}
        for scale, decay in sorted(groups, reverse=True)
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=recipe.lr, momentum=recipe.momentum)
    return torch.optim.AdamW(settings, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), fused=True)


def layer_scales(names: list[str], decay: float) -> dict[str, float]:
    """Each parameter's share of the learning rate: decay^(layers above it) (Bao et al. 2022, BEiT).

    Embeddings are layer 0 and block i is layer i + 1. The head, and what an objective adds, is the last, with a share of 1.
    """
    layers = {name: int(match["block"] or -1) + 1 for name in names if (match := _LAYER_NAMES.match(name))}
    last = max(layers.values(), default=0) + 1
    return {name: decay ** (last - layers.get(name, last)) for name in names}


def make_engine(module: nn.Module, recipe: Recipe, *, micro_batch: int, workers: int, zero_stage: int) -> Any:
    """A DeepSpeed engine whose step, over all micro-batches and workers, is exactly the recipe's global batch."""
    if recipe.batch_size % (micro_batch * workers):
        raise ValueError(f"micro-batch {micro_batch} x {workers} workers does not divide batch {recipe.batch_size}")
    half = resolve_precision(recipe) == "bf16"
    settings = {
        "train_batch_size": recipe.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_clipping": recipe.grad_clip,
        "zero_optimization": zero_settings(module, max(zero_stage, int(half))),  # bf16 has no fp32 masters at stage 0
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": half},
        "steps_per_print": 10**9,
    }
    deepspeed = import_deepspeed()
    module = module.to(device())
    optimizer = make_optimizer(module, recipe)
    if recipe.ema:
        add_average(optimizer)
    engine = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
    skip_needless_work(engine, workers)
    return engine


def zero_settings(module: nn.Module, stage: int) -> dict[str, Any]:
    """DeepSpeed's `zero_optimization` for this module. Chosen by bench/deepspeed_overhead.py.

    Buckets are no larger than the model, because DeepSpeed allocates them at every step. On a CPU gradients are not copied
    into contiguous memory, which only helps against fragmentation of GPU memory.
    """
    elements = sum(parameter.numel() for parameter in module.parameters())
    bucket = min(LARGEST_BUCKET, elements + elements % 2)  # DeepSpeed requires an even number
    settings: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if stage in (1, 2) and device().type == "cpu":
        settings["contiguous_gradients"] = False
    return settings


def set_learning_rate(engine: Any, rate: float) -> None:
    """Set the learning rate of the next step, scaled for each parameter group."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def full_weights(engine: Any) -> dict[str, Tensor]:
    """All weights in fp32 on the CPU, gathered from all workers. Collective."""
    from deepspeed.utils import safe_get_full_fp32_param

    sharded = engine.zero_optimization_stage() > 0
    weights: dict[str, Tensor] = dict(engine.module.named_buffers())
    for name, parameter in engine.module.named_parameters():
        value = safe_get_full_fp32_param(parameter) if sharded else parameter
        weights[name] = cast(Tensor, value).detach().float().cpu()
    return weights
