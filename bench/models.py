"""Speed and memory of one training step: ours against timm, Hugging Face and vit-pytorch at the same shapes.

    python bench/models.py --ours                  images/s of ours alone
    python bench/models.py --ours --peers          interleaved with whichever peers are installed, and the ratio
    python bench/models.py --ours --peers --memory peak memory of a process that does nothing else

A step is forward, cross-entropy, backward, clipping and fused AdamW, the same for everyone; fp32. Steps of all
contestants alternate, so that a noisy neighbour slows all of them; the median step counts.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.machinery
import importlib.util
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from vitmodel.config import ModelConfig, ViTConfig
from vitmodel.flops import train_flops
from vitmodel.models.build import build
from vitmodel.variants import named_model

CLASSES = 1000
MICRO = ViTConfig(family="vit", variant="micro/8", width=96, depth=6, mlp_dim=384, heads=3, patch=8)


class Shape(NamedTuple):
    """A model, its image size and its batch."""

    model: ModelConfig
    image_size: int
    batch: int


SHAPES = {
    "micro": Shape(MICRO, 32, 128),
    "Ti/16": Shape(named_model("Ti/16"), 224, 8),
    "S/16": Shape(named_model("S/16"), 224, 2),
    "R50x1": Shape(named_model("R50x1"), 64, 8),
}


# --- contestants ----------------------------------------------------------------------------------------------


def ours(shape: Shape) -> nn.Module:
    """With the erf form of GELU, which the peers compute."""
    model = shape.model.model_copy(update={"gelu": "erf"}) if isinstance(shape.model, ViTConfig) else shape.model
    return build(model, shape.image_size, CLASSES, seed=0)


def ours_compiled(shape: Shape) -> nn.Module:
    module = ours(shape)
    module.compile()
    return module


def of_timm(shape: Shape) -> nn.Module:
    with stand_in_for_torchvision():
        import timm
        from timm.models.vision_transformer import VisionTransformer

    if not isinstance(shape.model, ViTConfig):
        return timm.create_model("resnetv2_50x1_bit", pretrained=False, num_classes=CLASSES)
    return VisionTransformer(
        img_size=shape.image_size,
        patch_size=shape.model.patch,
        embed_dim=shape.model.width,
        depth=shape.model.depth,
        num_heads=shape.model.heads,
        mlp_ratio=shape.model.mlp_dim / shape.model.width,
        num_classes=CLASSES,
    )


class Logits(nn.Module):
    """A Hugging Face model that returns what the others return."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).logits


def of_hugging_face(shape: Shape) -> nn.Module | None:
    from transformers import BitConfig, BitForImageClassification, ViTForImageClassification
    from transformers import ViTConfig as TheirConfig

    if not isinstance(shape.model, ViTConfig):
        return Logits(BitForImageClassification(BitConfig(num_labels=CLASSES)))
    config = TheirConfig(
        hidden_size=shape.model.width,
        num_hidden_layers=shape.model.depth,
        num_attention_heads=shape.model.heads,
        intermediate_size=shape.model.mlp_dim,
        image_size=shape.image_size,
        patch_size=shape.model.patch,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=CLASSES,
        attn_implementation="sdpa",
    )
    return Logits(ViTForImageClassification(config))


def of_vit_pytorch(shape: Shape) -> nn.Module | None:
    with stand_in_for_torchvision():
        from vit_pytorch.vit import ViT

    model = shape.model
    if not isinstance(model, ViTConfig):
        return None
    return ViT(
        image_size=shape.image_size,
        patch_size=model.patch,
        num_classes=CLASSES,
        dim=model.width,
        depth=model.depth,
        heads=model.heads,
        dim_head=model.width // model.heads,
        mlp_dim=model.mlp_dim,
    )


Make = Callable[[Shape], nn.Module | None]
OURS: dict[str, Make] = {"ours": ours}
COMPILED: dict[str, Make] = {"ours compiled": ours_compiled}
PEERS: dict[str, tuple[str, Make]] = {
    "timm": ("timm", of_timm),
    "hugging face": ("transformers", of_hugging_face),
    "vit-pytorch": ("vit_pytorch", of_vit_pytorch),
}


class _Word(type):
    """A class whose every attribute is its own name: enough for the module-level tables of those who import torchvision."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Absent(types.ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Word(name, (), {})


@contextlib.contextmanager
def stand_in_for_torchvision() -> Iterator[None]:
    """For a while an empty torchvision, where none is installed: timm and vit-pytorch import it for what is not used here."""
    if importlib.util.find_spec("torchvision"):
        yield
        return
    below = ("", ".transforms", ".transforms.functional", ".transforms.v2", ".datasets", ".datasets.utils", ".datasets.folder")
    names = ["torchvision" + part for part in (*below, ".models", ".models.feature_extraction", ".ops", ".ops.misc", ".io")]
    for name in names:
        module = sys.modules[name] = _Absent(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


# --- measuring ------------------------------------------------------------------------------------------------


def make_step(module: nn.Module, shape: Shape) -> Callable[[], float]:
    """A function that does one step and returns its seconds."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    torch.manual_seed(0)
    images, labels = torch.randn(shape.batch, 3, shape.image_size, shape.image_size), torch.arange(shape.batch) % CLASSES
    module.train()

    def step() -> float:
        started = time.perf_counter()
        F.cross_entropy(module(images), labels).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    return step


def contestants(arguments: argparse.Namespace) -> dict[str, Make]:
    found = dict(OURS if arguments.ours else {}) | (COMPILED if arguments.compile else {})
    if arguments.peers:
        found |= {name: make for name, (module, make) in PEERS.items() if importlib.util.find_spec(module)}
    return found


def speed(shape: Shape, makes: dict[str, Make], seconds: float) -> dict[str, float]:
    """Images a second of each contestant that has this model: the median of interleaved steps."""
    modules = {name: make(shape) for name, make in makes.items()}
    steps = {name: make_step(module, shape) for name, module in modules.items() if module is not None}
    for step in steps.values():
        step(), step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    until, turn = time.monotonic() + seconds, list(steps)
    while time.monotonic() < until:
        for name in turn:
            times[name].append(steps[name]())
        turn = turn[1:] + turn[:1]
    return {name: shape.batch / statistics.median(values) for name, values in times.items()}


def report_speed(names: list[str], makes: dict[str, Make], seconds: float) -> None:
    for name in names:
        shape = SHAPES[name]
        rates = speed(shape, makes, seconds)
        best_peer = max((rate for who, rate in rates.items() if who in PEERS), default=None)
        for who, rate in rates.items():
            ratio = f"  {rate / best_peer:5.3f} of the fastest peer" if best_peer else ""
            gflops = rate * train_flops(shape.model, shape.image_size, CLASSES, 1) / 1e9
            print(f"{name:6} {who:14} {rate:9.2f} images/s {gflops:7.1f} GFLOP/s{ratio}", flush=True)


def report_memory(names: list[str], makes: dict[str, Make], threads: int) -> None:
    """Each contestant in a process of its own: peak resident memory after three steps, less that before the model."""
    for name in names:
        for who in makes:
            command = [sys.executable, __file__, "--threads", str(threads), "--alone", who, "--shapes", name]
            done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
            print(f"{name:6} {who:14} {done.stdout.strip() or done.stderr.strip().splitlines()[-1]}", flush=True)


def alone(who: str, shape: Shape) -> None:
    make = {**OURS, **COMPILED, **{name: make for name, (_, make) in PEERS.items()}}[who]
    module = make(shape)
    if module is None:
        print("has no such model")
        return
    step = make_step(module, shape)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what imports freed must not hide what a step takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status_mib("VmRSS")
    for _ in range(3):
        step()
    print(f"{_status_mib('VmHWM') - before:8.0f} MiB above the model itself")


def _status_mib(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile too (needs a C++ compiler)")
    parser.add_argument("--peers", action="store_true", help="timm, transformers, vit-pytorch: those that are installed")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of speed")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each shape, over all contestants")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        alone(arguments.alone, SHAPES[arguments.shapes[0]])
        return
    makes = contestants(arguments)
    if not makes:
        parser.error("nobody to measure: give --ours, --peers or both")
    if arguments.memory:
        report_memory(arguments.shapes, makes, arguments.threads)
    else:
        report_speed(arguments.shapes, makes, arguments.seconds)


if __name__ == "__main__":
    main()
