"""The contestants of bench/models.py: our models and those of timm, Hugging Face and vit-pytorch, at the same shapes."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import ModelConfig, named_model
from vitmodel.models.build import build

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
    """A Hugging Face model that returns logits, like the others."""

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
OURS: dict[str, Make] = {"ours": ours, "ours compiled": ours_compiled}
PEERS: dict[str, tuple[str, Make]] = {  # with the module that must be installed
    "timm": ("timm", of_timm),
    "hugging face": ("transformers", of_hugging_face),
    "vit-pytorch": ("vit_pytorch", of_vit_pytorch),
}
ALL: dict[str, Make] = OURS | {name: make for name, (_, make) in PEERS.items()}


class _NameOnly(type):
    """A class whose attributes are their own names: enough for module-level tables of packages that import torchvision."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Absent(types.ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _NameOnly(name, (), {})


@contextlib.contextmanager
def stand_in_for_torchvision() -> Iterator[None]:
    """An empty torchvision if none is installed: timm and vit-pytorch import it for parts that are not used here."""
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
