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
from vitmodel.training.averaging import keep_average
from vitmodel.training.lean import make_lean

LARGEST_BUCKET = 500_000_000  # elements; DeepSpeed's own default
UNDECAYED = ("pos_embed", "cls_token", "mask_token")
_LAYERED = re.compile(r"(?:encoder\.)?(?:blocks\.(?P<block>\d+)\.|patch_embed\.|pos_embed$|cls_token$)")


def device() -> torch.device:
    """The accelerator of this process, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def import_deepspeed() -> Any:
    """DeepSpeed, quiet, and without its just-in-time compilation on a CPU (nothing here may need a compiler)."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def ensure_process_group() -> tuple[int, int]:
    """(rank, world size); starts a group from torchrun's environment, or of this process alone, where none runs yet."""
    if torch.cuda.is_available():  # Ray Train and torchrun show every worker all of its node's GPUs
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        for name, value in alone.items():
            os.environ.setdefault(name, value)
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def leave_process_group() -> None:
    """The end of a program that trains by itself (torchrun): all workers leave together. Without it one may abort at exit."""
    dist.barrier()
    dist.destroy_process_group()


def resolve_precision(recipe: Recipe) -> str:
    """`auto` is bf16 on an accelerator and fp32 on a CPU."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if torch.cuda.is_available() else "fp32"


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Decay on matrices and kernels only: never on biases, norms, class and mask tokens or position embeddings.

    Each group has the scale of its learning rate: 1, or with layer decay the deeper the smaller.
    """
    named = dict(module.named_parameters())
    scales = layer_scales(list(named), recipe.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        is_free = parameter.ndim <= 1 or name.rpartition(".")[2] in UNDECAYED
        groups.setdefault((scales[name], 0.0 if is_free else recipe.weight_decay), []).append(parameter)
    settings = [
        {"params": groups[scale, decay], "weight_decay": decay, "lr_scale": scale}
        for scale, decay in sorted(groups, reverse=True)
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=recipe.lr, momentum=recipe.momentum)
    return torch.optim.AdamW(settings, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), fused=True)


def layer_scales(names: list[str], decay: float) -> dict[str, float]:
    """Share of the learning rate that each parameter of an encoder has: decay^(layers above it) (Bao et al. 2022, BEiT).

    Embeddings are layer 0, block i is layer i + 1; a head, or what an objective adds, is the last and has a share of 1.
    """
    layers = {name: int(match["block"] or -1) + 1 for name in names if (match := _LAYERED.match(name))}
    last = max(layers.values(), default=0) + 1
    return {name: decay ** (last - layers.get(name, last)) for name in names}


def make_engine(module: nn.Module, recipe: Recipe, *, micro_batch: int, workers: int, zero_stage: int) -> Any:
    """The DeepSpeed engine whose accumulated step is exactly the recipe's global batch."""
    if recipe.batch_size % (micro_batch * workers):
        raise ValueError(f"micro-batch {micro_batch} x {workers} workers does not divide batch {recipe.batch_size}")
    half = resolve_precision(recipe) == "bf16"
    settings = {
        "train_batch_size": recipe.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_clipping": recipe.grad_clip,
        "zero_optimization": zero_settings(module, max(zero_stage, int(half))),  # bf16 at stage 0 hides its fp32 masters
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": half},
        "steps_per_print": 10**9,
    }
    deepspeed = import_deepspeed()
    module = module.to(device())
    optimizer = make_optimizer(module, recipe)
    if recipe.ema:
        keep_average(optimizer)
    engine = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
    if workers == 1 and engine.zero_optimization_stage() == 0:
        engine.enable_backward_allreduce = False  # gradients would be copied out and in again to be shared with nobody
    if engine.zero_optimization_stage() in (1, 2):
        make_lean(engine.optimizer, workers)
    return engine


def end_engine(engine: Any) -> None:
    """DeepSpeed's clean-up, once. It would do it again when the engine's memory is collected, be that within an import: it
    imports, and Python 3.11 fails where one import begins at such a point of another.
    """
    engine.destroy()
    engine.destroy = lambda: None


def zero_settings(module: nn.Module, stage: int) -> dict[str, Any]:
    """DeepSpeed's `zero_optimization` for this module. Chosen by bench/deepspeed_overhead.py.

    Buckets no larger than the model: DeepSpeed takes their memory anew at every step. On a CPU gradients stay where
    they are; copying them together is against the fragmentation of a GPU's memory.
    """
    elements = sum(parameter.numel() for parameter in module.parameters())
    bucket = min(LARGEST_BUCKET, elements + elements % 2)  # DeepSpeed refuses an odd one
    settings: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if stage in (1, 2) and device().type == "cpu":
        settings["contiguous_gradients"] = False
    return settings


def set_learning_rate(engine: Any, rate: float) -> None:
    """The learning rate of the next step, for all parameters, each group's by its scale."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def full_weights(engine: Any) -> dict[str, Tensor]:
    """All weights in fp32 on the CPU, gathered from wherever ZeRO keeps them. Collective: every worker calls it."""
    from deepspeed.utils import safe_get_full_fp32_param

    sharded = engine.zero_optimization_stage() > 0
    weights: dict[str, Tensor] = dict(engine.module.named_buffers())
    for name, parameter in engine.module.named_parameters():
        value = safe_get_full_fp32_param(parameter) if sharded else parameter
        weights[name] = cast(Tensor, value).detach().float().cpu()
    return weights
