"""Logits of other codebases' models compared with ours after `import_weights`, and the way back with `export_weights`.

    python bench/parity.py            timm and transformers, if they are installed (see peers.py for torchvision)

Every tensor of the peer's model is perturbed at random, including norms and biases, so that a tensor in the wrong place is
detected. Prints the largest difference of logits relative to their largest value, and the bound of 1e-4; exit code 1 above it.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from peers import Logits, stand_in_for_torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitmodel.config.models import ModelConfig, named_model
from vitmodel.models.build import build
from vitmodel.weights.interchange import export_weights, import_weights
from vitmodel.weights.layouts import Layout

BOUND = 1e-4
CLASSES = 1000
TIMM = {  # our name: timm's name
    "Ti/16": "vit_tiny_patch16_224",
    "S/32": "vit_small_patch32_224",
    "B/16": "vit_base_patch16_224",
    "R+Ti/16": "vit_tiny_r_s16_p8_224",
    "R26+S/32": "vit_small_r26_s32_224",
    "R50x1": "resnetv2_50x1_bit",
    "R101x1": "resnetv2_101x1_bit",
}


def perturbed(module: nn.Module) -> nn.Module:
    """The module with noise added to every parameter, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return module.eval()


def of_timm() -> Iterator[tuple[str, nn.Module, ModelConfig | None, Layout]]:
    with stand_in_for_torchvision():
        import timm
    for ours, theirs in TIMM.items():
        yield f"timm {theirs}", perturbed(timm.create_model(theirs, num_classes=CLASSES)), named_model(ours), "timm"


def of_hugging_face() -> Iterator[tuple[str, nn.Module, ModelConfig | None, Layout]]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, num_labels=CLASSES)
    yield "hugging face ViT Ti/16", perturbed(ViTForImageClassification(config)), named_model("Ti/16"), "hf"


def write(module: nn.Module, layout: Layout, folder: Path) -> Path:
    if layout == "hf":
        module.save_pretrained(folder / "hf")
        return folder / "hf"
    path = folder / "timm.safetensors"
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, path)
    return path


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


@torch.no_grad()
def compare(name: str, module: nn.Module, model: ModelConfig | None, layout: Layout, folder: Path) -> bool:
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    theirs = (Logits(module) if layout == "hf" else module)(images)
    path = write(module, layout, folder)
    config, state = import_weights(path, model, layout)
    twin = build(config, 224, CLASSES, seed=0).eval()
    twin.load_state_dict(state)
    error = difference(theirs, twin(images))
    back = folder / ("back" if layout == "hf" else "back.safetensors")
    export_weights(state, config, back, layout)
    before, after = (load_file(file / "model.safetensors" if layout == "hf" else file) for file in (path, back))
    exact = before.keys() == after.keys() and all(torch.equal(after[key], value) for key, value in before.items())
    print(f"{name:32} {error:8.1e} of {BOUND:g}   round trip {'bit for bit' if exact else 'DIFFERS'}", flush=True)
    return error <= BOUND and exact


def main() -> None:
    peers = [("timm", of_timm), ("transformers", of_hugging_face)]
    all_equal = True
    for package, models in peers:
        if not importlib.util.find_spec(package):
            print(f"{package} is not installed")
            continue
        for case in models():
            with tempfile.TemporaryDirectory() as folder:
                all_equal &= compare(*case, Path(folder))
    sys.exit(not all_equal)


if __name__ == "__main__":
    main()
