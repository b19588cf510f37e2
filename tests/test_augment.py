"""RandAugment, mixup and CutMix: each operation matches PIL, and the result does not depend on how a batch is split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from vitmodel.config.recipe import Recipe
from vitmodel.data.mixing import Mix, Targets, draw_mix, mix_images, mixed_loss
from vitmodel.data.order import Batch, Order
from vitmodel.data.preprocess import mix_of, preprocess
from vitmodel.data.randaugment import GEOMETRIC, NAMES, apply, randaugment
from vitmodel.data.reader import LoadedBatch

SIDE = 32


def picture(name: str = "") -> Image.Image:
    """Colourful noise; smooth for operations that resample it, so that the rounding of PIL does not look like an error."""
    side = 5 if name in GEOMETRIC else SIDE
    noise = np.random.default_rng(0).uniform(20, 230, (side, side, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def tensor_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()[None] / 255


def ours(name: str, strength: float, image: Image.Image) -> np.ndarray:
    out = apply(tensor_of(image), np.array([NAMES.index(name)]), np.array([strength]))
    return (out[0].permute(1, 2, 0) * 255).numpy()


def affine(*coefficients: float) -> Callable[[Image.Image], Image.Image]:
    grey = (127, 127, 127)
    return lambda i: i.transform(
        i.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR, fillcolor=grey
    )


PIL: dict[str, tuple[float, Callable[[Image.Image], Image.Image]]] = {
    "autocontrast": (1.0, ImageOps.autocontrast),
    "equalize": (1.0, ImageOps.equalize),
    "solarize": (0.5, lambda i: ImageOps.solarize(i, 128)),
    "posterize": (1.0, lambda i: ImageOps.posterize(i, 4)),
    "color": (1.0, lambda i: ImageEnhance.Color(i).enhance(1.9)),
    "contrast": (-0.5, lambda i: ImageEnhance.Contrast(i).enhance(0.55)),
    "brightness": (0.6, lambda i: ImageEnhance.Brightness(i).enhance(1.54)),
    "sharpness": (1.0, lambda i: ImageEnhance.Sharpness(i).enhance(1.9)),
    "rotate": (1.0, lambda i: i.rotate(30, Image.Resampling.BILINEAR, fillcolor=(127, 127, 127))),
    "shear_x": (1.0, affine(1, 0.3, 0, 0, 1, 0)),
    "shear_y": (-1.0, affine(1, 0, 0, -0.3, 1, 0)),
    "translate_x": (1.0, affine(1, 0, 0.45 * SIDE, 0, 1, 0)),
    "translate_y": (-0.5, affine(1, 0, 0, 0, 1, -0.225 * SIDE)),
}


@pytest.mark.parametrize("name", PIL)
def test_operations_match_pil(name: str) -> None:
    """Within two of 255 levels; geometric ones away from the edges, where PIL has a rule of its own."""
    strength, pil_operation = PIL[name]
    image = picture(name)
    actual, expected = ours(name, strength, image), np.asarray(pil_operation(image)).astype(float)
    assert abs(expected - np.asarray(image)).max() > 10, "the case must change the image"
    near_edge = np.zeros((SIDE, SIDE), bool)
    if name in GEOMETRIC:
        marker = np.asarray(pil_operation(Image.new("RGB", image.size, (255, 255, 255)))).astype(float)[..., 0]
        inside = ours(name, strength, Image.new("RGB", image.size, (255, 255, 255)))[..., 0]
        near_edge = (abs(inside - 255) > 1) & (abs(inside - 127.5) > 1)
        assert abs(marker - inside)[~near_edge].max() < 2
        assert near_edge.mean() < 0.15
    assert abs(actual - expected)[~near_edge].max() <= 2


def test_every_operation_is_tested_and_identity_changes_nothing() -> None:
    assert set(PIL) | {"identity"} == set(NAMES)
    assert len(NAMES) == 14
    assert np.array_equal(ours("identity", 1.0, picture()), np.asarray(picture()).astype(np.float32) / 255 * 255)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("autocontrast", "equalize")])
def test_magnitude_0_is_the_identity(name: str) -> None:
    assert abs(ours(name, 0.0, picture(name)) - np.asarray(picture(name))).max() < 1e-2


def batch_of(size: int, epoch: int = 0) -> Batch:
    return Batch(np.arange(size), np.full(size, epoch))


def images_of(size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_randaugment_depends_on_the_sample_alone() -> None:
    images, batch = images_of(64), batch_of(64)
    whole = randaugment(images, batch, 0, 2, 10.0)
    some = np.array([63, 5, 17])
    alone = randaugment(images[some], Batch(batch.samples[some], batch.epochs[some]), 0, 2, 10.0)
    assert torch.equal(whole[some], alone)
    assert whole.min() >= -1.00001
    assert whole.max() <= 1.00001
    for other in (randaugment(images, batch_of(64, 1), 0, 2, 10.0), randaugment(images, batch, 1, 2, 10.0)):
        assert (whole - other).abs().amax(dim=(1, 2, 3)).gt(1e-3).float().mean() > 0.7


def test_operations_are_drawn_evenly() -> None:
    """Over many samples each operation is chosen about equally often (a chi-square bound, 13 degrees of freedom)."""
    from vitmodel.data.draws import OPERATIONS, uniform

    chosen = (uniform(batch_of(14_000), 0, OPERATIONS, 2)[:, 0] * len(NAMES)).astype(int)
    counts = np.bincount(chosen, minlength=14)
    assert ((counts - 1000) ** 2 / 1000).sum() < 40


# --- mixup and CutMix -----------------------------------------------------------------------------------------


def recipe(**keys: Any) -> Recipe:
    base = {"preset": "t", "optimizer": "adamw", "lr": 1e-3, "batch_size": 8, "schedule": "constant", "warmup": 0.0}
    return Recipe.model_validate({**base, **keys})


def test_mixing_by_hand() -> None:
    images, partners = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    mix = Mix(np.array([1, 0]), np.array([0.7, 0.75]), np.array([[0, 0, 0, 0], [1, 0, 3, 2]]))
    mixed = mix_images(images, partners, mix)
    assert torch.allclose(mixed[0], torch.tensor(0.7))
    assert mixed[1, 0].tolist() == [[1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_loss_is_the_loss_on_mixed_labels(smoothing: float) -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    a, b, share = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([6, 1, 0, 2, 2]), torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0])
    soft = share[:, None] * F.one_hot(a, 7) + (1 - share[:, None]) * F.one_hot(b, 7)
    expected = F.cross_entropy(logits, soft, label_smoothing=smoothing)
    assert torch.allclose(mixed_loss(logits, Targets(a, b, share), smoothing), expected, atol=1e-6)
    plain = F.cross_entropy(logits, a, label_smoothing=smoothing)
    assert torch.equal(mixed_loss(logits, Targets(a), smoothing), plain)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 8.0])
def test_shares_follow_their_distribution(alpha: float) -> None:
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)), those of Beta(alpha, alpha)."""
    shares = draw_mix(batch_of(20_000), 2, recipe(mixup=alpha), 0, 32).shares
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean() == pytest.approx(0.5, abs=4 * (variance / 20_000) ** 0.5)
    assert shares.var() == pytest.approx(variance, rel=0.05)


def test_cutmix_areas() -> None:
    """With alpha 1 the uncut square has mean area 1/2; cut at the border the mean over sides s = sqrt(1 - share) and
    centres is E[(s - s^2/4)^2] = 1/2 - 1/5 + 1/48. A label's share is the share of the pixels.
    """
    mix = draw_mix(batch_of(20_000), 2, recipe(cutmix=1.0), 0, 224)
    left, top, right, bottom = mix.boxes.T
    area = (right - left) * (bottom - top) / 224**2
    assert np.allclose(mix.shares, 1 - area)
    assert mix.boxes.min() >= 0
    assert mix.boxes.max() <= 224
    assert area.mean() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.006)
    images, partners = torch.ones(64, 3, 32, 32), torch.zeros(64, 3, 32, 32)
    mix = draw_mix(batch_of(64), 2, recipe(cutmix=1.0), 0, 32)
    assert np.allclose(mix_images(images, partners, mix).mean(dim=(1, 2, 3)), mix.shares, atol=1e-6)


def test_mixup_and_cutmix_alternate() -> None:
    mix = draw_mix(batch_of(20_000), 2, recipe(mixup=0.2, cutmix=1.0), 0, 224)
    assert np.any(mix.boxes != 0, axis=1).mean() == pytest.approx(0.5, abs=0.02)


def test_no_sample_is_mixed_with_itself() -> None:
    mix = draw_mix(batch_of(12), 3, recipe(mixup=0.2), 0, 32)
    assert mix.partners.tolist() == [1, 2, 0, 4, 5, 3, 7, 8, 6, 10, 11, 9]
    with pytest.raises(ValueError, match="at least two samples of each lane"):
        draw_mix(batch_of(12), 1, recipe(mixup=0.2), 0, 32)


KINDS = ({"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0, "randaugment_layers": 2, "augment": "inception"})


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.sampled_from([4, 8]), st.integers(2, 4)),
    step=st.integers(0, 40),
    workers=st.sampled_from([1, 2, 4]),
    kind=st.sampled_from(KINDS),
    data=st.data(),
)
def test_mixing_does_not_depend_on_workers_or_micro_batch(
    shape: tuple[int, int], step: int, workers: int, kind: dict[str, Any], data: st.DataObject
) -> None:
    """The mixed images and targets of a step, by sample, do not depend on workers, micro-batch or a resume."""
    lanes, lane_samples = shape
    pool = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(100) % 10
    chosen, batch_size = recipe(batch_size=lanes * lane_samples, **kind), lanes * lane_samples

    def step_inputs(workers: int, micro: int) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        order = Order(seed=0, n=100, lanes=lanes, window=16, shard_sizes=(60, 40))  # a new one, as after a resume
        inputs = {}
        for worker in range(workers):
            batch = order.batch(step, batch_size, worker, workers)
            loaded = LoadedBatch(pool[batch.samples], labels[batch.samples], batch)
            mix = mix_of(loaded, chosen, 0, lane_samples)
            for start in range(0, len(batch.samples), micro):
                places = np.arange(start, min(start + micro, len(batch.samples)))
                images, targets = preprocess(loaded, places, mix, chosen, seed=0, device=torch.device("cpu"))
                assert targets.partners is not None
                assert targets.shares is not None
                rows = torch.stack([targets.labels, targets.partners, targets.shares], dim=1)
                for place, image, row in zip(places, images, rows, strict=True):
                    inputs[int(batch.samples[place]), int(batch.epochs[place])] = image, row
        return inputs

    micro = data.draw(st.integers(1, batch_size // workers))
    whole, parts = step_inputs(1, batch_size), step_inputs(workers, micro)
    assert whole.keys() == parts.keys()
    for key, (image, row) in whole.items():
        assert torch.allclose(image, parts[key][0], atol=1e-5)
        assert torch.equal(row, parts[key][1])
