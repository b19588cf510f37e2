"""Analysis of a ViT (Dosovitskiy et al. 2021, Figures 6, 7 and 11): filters, positions, attention distance, rollout.

Each function takes a module, leaves it unchanged and returns numpy arrays. Fused attention does not return its weights, so
hooks take queries and keys and compute the weights separately, layer by layer. Attention is analysed for mixer full only.
Shapes: B batch, L layers, H heads, T tokens, E = width / H, R rows and C columns of the grid, P patch, S image side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitmodel.config.base import UserError
from vitmodel.models.hybrid import HybridEmbed
from vitmodel.models.mixers import Attention
from vitmodel.models.vit import ViT

Array = NDArray[np.float32]
FILTERS = 28  # ViT paper, Figure 7


def patch_filters(module: nn.Module, count: int = FILTERS) -> Array:
    """The leading principal components of the patch embedding's filters: (count, P, P, 3), of unit length, largest first.

    There are fewer if the embedding has fewer. The sign is chosen so that the largest value is positive. Raises UserError for
    a module whose patches are not of pixels.
    """
    vit = _vit(module)
    if isinstance(vit.patch_embed, HybridEmbed):
        raise UserError("the patch filters of a hybrid are not images: its patches are of a feature map", field="filters")
    weight = vit.patch_embed.proj.weight.detach().double().cpu()
    flat = weight.flatten(1)
    components = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False).Vh[:count]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    components = components * largest.sign()
    return _numpy(components.view(-1, *weight.shape[1:]).permute(0, 2, 3, 1))


def position_similarity(module: nn.Module) -> Array:
    """Cosine similarity of the position embeddings of every two patches, without the class token: (R, C, R, C)."""
    vit = _vit(module)
    grid_TD = vit.pos_embed.detach()[0, vit.prefix :].double()
    unit_TD = grid_TD / grid_TD.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return _numpy((unit_TD @ unit_TD.T).view(*vit.grid, *vit.grid))


def attention_weights(module: nn.Module, images: Tensor) -> Array:
    """Attention of every layer and head for images (B, 3, S, S): (L, B, H, T, T); row t has the weights of token t's query."""
    layers: list[Array] = []
    _for_each_layer(module, images, lambda weights_BHTT: layers.append(_numpy(weights_BHTT)))
    return np.stack(layers)


def mean_attention_distance(module: nn.Module, images: Tensor) -> Array:
    """Mean attention distance of each head in pixels, averaged over patches and images: (L, H).

    The distance between the centres of a query's patch and of all patches, weighted by attention (ViT paper, Figure 7,
    right; appendix D.7). The class token is excluded: the weights are those among patches, normalised to sum to one.
    """
    vit, layers = _vit(module), list[Array]()
    distance_TT = _patch_distances(vit.grid, images.shape[-2:]).to(images.device)

    def add_layer(weights_BHTT: Tensor) -> None:
        among_BHTT = weights_BHTT[:, :, vit.prefix :, vit.prefix :].double()
        share_BHTT = among_BHTT / among_BHTT.sum(dim=-1, keepdim=True).clamp_min(1e-30)
        layers.append(_numpy((share_BHTT * distance_TT).sum(dim=-1).mean(dim=(0, 2))))

    _for_each_layer(module, images, add_layer)
    return np.stack(layers)


def attention_rollout(module: nn.Module, images: Tensor) -> Array:
    """Attention rollout, the share of each patch in the input of the head: (B, R, C).

    Attention averaged over heads, with half of each layer's weight on the residual path, multiplied through the layers
    (Abnar and Zuidema 2020, section 3; ViT paper, Figure 6 and appendix D.8); of the class token, or averaged over all
    tokens if these are pooled. Sums to one minus the share of the class token.
    """
    vit, rollout = _vit(module), list[Tensor]()

    def multiply(weights_BHTT: Tensor) -> None:
        mean_BTT = weights_BHTT.double().mean(dim=1)
        mixed_BTT = 0.5 * mean_BTT + 0.5 * torch.eye(mean_BTT.shape[-1], device=mean_BTT.device)
        rollout[:] = [mixed_BTT @ rollout[0] if rollout else mixed_BTT]

    _for_each_layer(module, images, multiply)
    head_BT = rollout[0][:, 0] if vit.prefix else rollout[0].mean(dim=1)
    return _numpy(head_BT[:, vit.prefix :].reshape(-1, *vit.grid))


def _for_each_layer(module: nn.Module, images: Tensor, use: Callable[[Tensor], None]) -> None:
    """Run the module on the images and call `use` with each layer's attention weights (B, H, T, T), in order."""
    vit = _vit(module)
    others = [type(block.attn).__name__ for block in vit.blocks if type(block.attn) is not Attention]
    if others:
        raise UserError(f"needs a model with full attention; this one has {others[0]}", field="mixer", allowed="full")

    def hook_of(layer: Attention) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, qkv_BTF: Tensor) -> None:
            B, T, F = qkv_BTF.shape
            query_BHTE, key_BHTE, _value = qkv_BTF.view(B, T, 3, layer.heads, F // 3 // layer.heads).permute(2, 0, 3, 1, 4)
            scores_BHTT = query_BHTE @ key_BHTE.transpose(-2, -1) * query_BHTE.shape[-1] ** -0.5
            use(scores_BHTT.softmax(dim=-1, dtype=torch.promote_types(scores_BHTT.dtype, torch.float32)))

        return hook

    was_training = vit.training
    hooks = [block.attn.qkv.register_forward_hook(hook_of(block.attn)) for block in vit.blocks]  # type: ignore[union-attr, arg-type]
    try:
        with torch.no_grad():
            vit.eval()(images)
    finally:
        vit.train(was_training)
        for handle in hooks:
            handle.remove()


def _patch_distances(grid: tuple[int, int], sides: torch.Size) -> Tensor:
    """Distance in pixels between the centres of every two patches: (T, T)."""
    positions = [torch.arange(count, dtype=torch.float64) * side / count for count, side in zip(grid, sides, strict=True)]
    centres_T2 = torch.cartesian_prod(*positions)
    return torch.cdist(centres_T2, centres_T2)


def _vit(module: nn.Module) -> ViT:
    if not isinstance(module, ViT):
        raise UserError(f"{type(module).__name__} has no patches and no attention", field="model", allowed="vit, hybrid")
    return module


def _numpy(tensor: Tensor) -> Array:
    return tensor.float().cpu().numpy()
