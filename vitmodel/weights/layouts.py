"""Our tensors in the layouts of other codebases: which tensors, under which names, in which shapes.

`entries_of(model, layout)` lists every tensor of a model with the tensors that it is stored as in a layout;
`from_layout` and `to_layout` convert, bit for bit. Pure: reads no files.
"""

from __future__ import annotations

from torch import Tensor

from vitmodel.config.base import UserError
from vitmodel.config.families.hybrid import HybridConfig
from vitmodel.config.families.resnet import ResNetConfig
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import ModelConfig
from vitmodel.weights.encoder_layouts import encoder_hf, encoder_official, encoder_timm
from vitmodel.weights.recognise import Layout
from vitmodel.weights.resnet_layouts import backbone_official, backbone_timm, bit_official, bit_timm
from vitmodel.weights.tensor_forms import Entry


def entries_of(model: ModelConfig, layout: Layout, *, has_head: bool = True) -> list[Entry]:
    """All tensors of a model, with or without its head. Raises UserError if the layout does not support the model."""
    _check_support(model, layout, has_head)
    if isinstance(model, ResNetConfig):
        entries = list(bit_official(model) if layout == "official" else bit_timm(model))
    else:
        assert isinstance(model, ViTConfig | HybridConfig)
        encoder = {"official": encoder_official, "timm": encoder_timm, "hf": encoder_hf}[layout]
        entries = list(encoder(model))
        if isinstance(model, HybridConfig):
            entries += backbone_official(model) if layout == "official" else backbone_timm(model)
    return [entry for entry in entries if has_head or not entry.native.startswith("head.")]


def from_layout(foreign: dict[str, Tensor], entries: list[Entry]) -> dict[str, Tensor]:
    """Our tensors from those of another codebase, which must have all names of the entries, in the right shapes."""
    return {entry.native: entry.form.read([foreign[name] for name in entry.foreign]).contiguous() for entry in entries}


def to_layout(native: dict[str, Tensor], entries: list[Entry], heads: int) -> dict[str, Tensor]:
    """The tensors of another codebase from ours; on the meta device, their shapes."""
    return {
        name: part.contiguous()
        for entry in entries
        for name, part in zip(entry.foreign, entry.form.write(native[entry.native], heads), strict=True)
    }


def _check_support(model: ModelConfig, layout: Layout, has_head: bool) -> None:
    if isinstance(model, ResNetConfig):
        is_published = model.block == "bottleneck" and model.stem == "imagenet"
        if not is_published or layout == "hf":
            raise UserError(
                f"layout {layout} does not support {model.variant}", field="layout", allowed="official or timm, for BiT"
            )
        return
    if not isinstance(model, ViTConfig | HybridConfig) or (layout == "hf" and isinstance(model, HybridConfig)):
        raise UserError(f"layout {layout} does not support family {model.family}", field="layout")
    is_hf_encoder = layout == "hf" and not has_head
    limits = {
        "mixer": (model.mixer, ("full",)),
        "pooling": (model.pooling, ("cls",) if layout == "hf" else ("cls", "gap")),
        # Hugging Face's classifier does not use a pooler; its ViTModel without a head has one
        "pre_logits": (bool(model.pre_logits), (False, True) if layout == "official" or is_hf_encoder else (False,)),
    }
    for field, (value, allowed) in limits.items():
        if value not in allowed:
            raise UserError(f"layout {layout} does not support {field} {value}", field=field, allowed=str(allowed[0]))
