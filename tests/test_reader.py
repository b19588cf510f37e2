"""Reading: one result for any cache, threads and workers; strict decoding; the policy for bad samples."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from sklearn.datasets import load_sample_images

from vitmodel.config.base import UserError
from vitmodel.data.bad_samples import BAD_FILE, BadSample, BadSamples, append
from vitmodel.data.crops import ATTEMPTS, Crops, crop_box
from vitmodel.data.decode import SMALL_PIXELS, DecodeError, Header, decode, decode_box, read_header
from vitmodel.data.descriptions import FolderFormat, PackConfig
from vitmodel.data.order import Batch
from vitmodel.data.reader import Dataset, LoadedBatch, ReadOptions
from vitmodel.data.shards import pack
from vitmodel.training.evaluate import features, mean_scores
from vitmodel.training.skipped_samples import reporting_skipped

COUNT = 64


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs of several sizes and formats, packed."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(COUNT):
        source = load_sample_images().images[number % 2]
        height, width = random.integers(60, 200, 2)
        part = source[100 : 100 + height, 200 : 200 + width]
        kind = ("JPEG", "PNG", "WEBP")[number % 3]
        path = folder / "in" / str(number % 2) / f"{number:03d}.{kind.lower().replace('jpeg', 'jpg')}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(part, kind))
    pack(
        PackConfig(path=str(folder / "in"), files=FolderFormat(format="folder"), hold_out={"val": 0.1}),
        folder / "out",
        processes=1,
    )
    return folder / "out"


def damaged(root: Path, target: Path, samples: list[int]) -> Path:
    """A copy of a dataset in which the images of these training samples are zeros. The sizes are unchanged."""
    target.mkdir()
    for path in root.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    members = np.load(target / "train-00000.npy")
    tar = bytearray((target / "train-00000.tar").read_bytes())
    for sample in samples:
        offset, length, _ = members[sample].item()
        tar[offset : offset + length] = bytes(length)
    (target / "train-00000.tar").write_bytes(tar)
    return target


def steps(dataset: Dataset, workers: int = 1, lanes: int = 8, count: int = 12) -> list[tuple[np.ndarray, ...]]:
    """The global batches of the first steps, each sorted by sample."""
    order = dataset.order(seed=1, lanes=lanes, window=16)
    parts = [
        list(dataset.batches(order.batch(step, 16, worker, workers) for step in range(count))) for worker in range(workers)
    ]
    batches = []
    for group in zip(*parts, strict=True):
        assert len({len(part.labels) for part in group}) == 1
        samples, epochs = (np.concatenate([getattr(part.batch, name) for part in group]) for name in ("samples", "epochs"))
        order_ = np.lexsort((epochs, samples))
        images, labels = np.concatenate([part.images for part in group]), np.concatenate([part.labels for part in group])
        batches.append((samples[order_], epochs[order_], labels[order_], images[order_]))
    return batches


def equal(one: list[tuple[np.ndarray, ...]], other: list[tuple[np.ndarray, ...]]) -> bool:
    return all(np.array_equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("crops", [None, Crops(seed=3, flip=True)])
def test_batches_do_not_depend_on_cache_threads_or_workers(photos: Path, crops: Crops | None) -> None:
    usual = steps(Dataset(photos, "train", 32, crops=crops))
    for reading, workers in (
        (ReadOptions(cache="off", threads=1), 1),
        (ReadOptions(cache="off", threads=3), 2),
        (ReadOptions(), 8),
    ):
        assert equal(steps(Dataset(photos, "train", 32, reading=reading, crops=crops), workers), usual)


@pytest.mark.parametrize(("threads", "workers"), [(2, 1), (1, 2), (3, 4)])
def test_the_first_epoch_has_every_sample_once_for_any_threads_and_workers(photos: Path, threads: int, workers: int) -> None:
    dataset = Dataset(photos, "train", 16, size=32, reading=ReadOptions(cache="off", threads=threads))
    samples = np.concatenate([batch[0] for batch in steps(dataset, workers, count=2)])
    assert sorted(samples.tolist()) == list(range(32))


def test_crops_depend_on_seed_epoch_and_sample_alone(photos: Path) -> None:
    dataset = Dataset(photos, "train", 32, crops=Crops(seed=0, flip=True))
    first, again = Batch(np.arange(8), np.zeros(8, dtype=int)), Batch(np.arange(8)[::-1].copy(), np.zeros(8, dtype=int))
    images = dataset.load(first).images
    assert np.array_equal(dataset.load(again).images[::-1], images)
    assert not np.array_equal(dataset.load(first._replace(epochs=np.ones(8, dtype=int))).images, images)
    other = Dataset(photos, "train", 32, crops=Crops(seed=1, flip=True))
    assert not np.array_equal(other.load(first).images, images)


def test_boxes_are_inside_the_image_and_have_the_papers_areas() -> None:
    numbers = np.random.default_rng(0).random((2000, ATTEMPTS, 4))
    for width, height in ((500, 375), (30, 900), (1, 1)):
        boxes = np.array([crop_box(row, Header("JPEG", width, height)) for row in numbers])
        assert boxes.min() >= 0
        assert (boxes[:, 2:].min(), (boxes[:, 0] + boxes[:, 2]).max(), (boxes[:, 1] + boxes[:, 3]).max()) >= (1, 1, 1)
        assert (boxes[:, 0] + boxes[:, 2]).max() <= width
        assert (boxes[:, 1] + boxes[:, 3]).max() <= height
    areas = np.array([w * h for _, _, w, h in (crop_box(row, Header("JPEG", 500, 500)) for row in numbers)]) / 250_000
    assert 0.04 < areas.min() < 0.1
    assert 0.45 < areas.mean() < 0.53  # less than the middle of 5% and 100%: large boxes fit less often


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_or_truncated_file_is_never_decoded(kind: str) -> None:
    data = encoded(load_sample_images().images[0][:300, :300], kind)
    decode(data, read_header(data))
    half = len(data) // 2
    damaged_files = [data[:half], data[:30], b"", data[:half] + bytes(200) + data[half + 200 :]]
    for number, bad in enumerate(damaged_files):
        if kind == "WEBP" and number == 3:
            continue  # WebP has no checksums: a changed byte is another image
        with pytest.raises(DecodeError):
            decode(bad, read_header(bad))


def png(
    raw: bytes, side: int, channels: int = 3, *, interlaced: bool = False, more: tuple[bytes, bytes] | None = None
) -> bytes:
    """A grey or RGB PNG of these filtered rows."""
    colours = {1: 0, 3: 2}[channels]
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, colours, 0, 0, interlaced)), *([more] if more else [])]
    parts += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [SMALL_PIXELS, SMALL_PIXELS + 1])  # two decoders
def test_png_of_any_size_is_decoded_alike_and_strictly(side: int, channels: int) -> None:
    random = np.random.default_rng(side)
    for filter_ in range(5):  # of the rows
        raw = b"".join(bytes([filter_]) + random.bytes(side * channels) for _ in range(side))
        for more in (None, (b"gAMA", struct.pack(">I", 45455)), (b"tRNS", struct.pack(f">{channels}H", *range(channels)))):
            data = png(raw, side, channels, more=more)
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            assert np.array_equal(decode(data, read_header(data)), expected)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]  # Adam7
    shapes = [(len(range(y, side, down)), len(range(x, side, right))) for x, y, right, down in passes]
    rows = [bytes(1) + random.bytes(width * channels) for height, width in shapes for _ in range(height)]
    interlaced = png(b"".join(rows), side, channels, interlaced=True)
    assert np.array_equal(
        decode(interlaced, read_header(interlaced)), np.asarray(Image.open(io.BytesIO(interlaced)).convert("RGB"))
    )
    for bad in (raw[: len(raw) // 2], b"\x09" + raw[1:], b""):  # missing rows, an invalid filter, no rows: in a complete file
        with pytest.raises(DecodeError):
            decode(data := png(bad, side, channels), read_header(data))


def test_limits_are_checked_in_the_header() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(DecodeError, match="60000 x 60000 pixels"):
        read_header(b"\x89PNG\r\n\x1a\n" + chunk)


def test_scaled_decoding_shows_the_same_part() -> None:
    photo = load_sample_images().images[0][:384, :512]
    data = encoded(photo, "JPEG")
    small = decode_box(data, read_header(data), (128, 64, 256, 256), 32)  # decoded at a quarter
    whole = np.asarray(Image.fromarray(photo[64:320, 128:384]).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(small.astype(int) - whole).mean() < 4


def test_a_bad_sample_fails_the_run_and_is_named(photos: Path, tmp_path: Path) -> None:
    root = damaged(photos, tmp_path / "bad", [5])
    with pytest.raises(UserError, match=r"train-00000.tar: sample 5 at byte \d+ \(member train-\d+\.(jpg|png|webp)\)"):
        Dataset(root, "train", 32)


def test_replacements_do_not_depend_on_cache_threads_or_workers(photos: Path, tmp_path: Path) -> None:
    root = damaged(photos, tmp_path / "bad", [5, 6])
    policy = {"skip_up_to": 0.05}
    usual = Dataset(root, "train", 32, reading=ReadOptions(**policy))
    expected = steps(usual)
    assert len(usual.bad) == 2
    assert not {5, 6} & set(np.concatenate([samples for samples, *_ in expected]))
    for reading, workers in ((ReadOptions(cache="off", **policy), 1), (ReadOptions(cache="off", threads=2, **policy), 4)):
        assert equal(steps(Dataset(root, "train", 32, reading=reading), workers), expected)
    good = Dataset(photos, "train", 32).read(np.array([7]))
    assert np.array_equal(usual.read(np.array([5, 6])), np.concatenate([good, good]))


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_a_probe_takes_the_label_of_the_replacement(photos: Path, tmp_path: Path, cache: Literal["auto", "off"]) -> None:
    classes = Dataset(photos, "train", 16).labels
    bad = int(np.flatnonzero(np.diff(classes))[0])  # the next sample, its replacement, has another class
    root = damaged(photos, tmp_path / "bad", [bad])
    dataset = Dataset(root, "train", 16, reading=ReadOptions(cache=cache, skip_up_to=0.1))
    images, labels = features(lambda images: images.flatten(1), dataset, np.arange(bad + 2), batch_size=4)
    assert torch.equal(images[bad], images[bad + 1])
    assert labels.tolist() == [*classes[:bad], classes[bad + 1], classes[bad + 1]]


def test_more_bad_samples_than_the_limit(photos: Path, tmp_path: Path) -> None:
    root = damaged(photos, tmp_path / "bad", [5, 6, 9])
    with pytest.raises(UserError, match=r"3 of \d+ samples are bad, 2 may be skipped"):
        Dataset(root, "train", 32, reading=ReadOptions(cache="off", skip_up_to=0.05)).read(np.arange(16))


def test_skipped_samples_are_recorded_and_read_by_the_next_attempt(tmp_path: Path) -> None:
    bad = BadSamples("train", 100, 0.03)
    sample = BadSample(split="train", sample=7, url="u", member="m", offset=1, reason="r")
    reports: list[dict[str, float]] = []
    report = reporting_skipped(reports.append, bad, tmp_path, 0, 1)
    bad.add(sample)
    bad.add(sample)
    report({"step": 1})
    report({"step": 2})
    assert [metrics["data/skipped"] for metrics in reports] == [1, 1]
    assert [json.loads(line) for line in (tmp_path / BAD_FILE).read_text().splitlines()] == [sample.model_dump()]
    append(tmp_path / BAD_FILE, [sample.model_copy(update={"split": "val"})])
    resumed = BadSamples("train", 100, 0.03, tmp_path / BAD_FILE)
    assert len(resumed) == 1
    assert resumed.take_new() == []


def test_a_shard_truncated_between_members_is_detected(photos: Path, tmp_path: Path) -> None:
    root = damaged(photos, tmp_path / "cut", [])
    offset = int(np.load(root / "train-00000.npy")[20]["offset"]) - 512
    os.truncate(root / "train-00000.tar", offset)
    with pytest.raises(UserError, match="stale index"):
        Dataset(root, "train", 32)


def test_a_shard_that_is_truncated_while_it_is_read(photos: Path, tmp_path: Path) -> None:
    root = damaged(photos, tmp_path / "cut", [])
    dataset = Dataset(root, "train", 32, reading=ReadOptions(cache="off"))
    dataset.read(np.array([0]))
    os.truncate(root / "train-00000.tar", 20_000)
    with pytest.raises(UserError, match=r"train-00000.tar: sample \d+ at byte \d+ .*the shard is truncated"):
        dataset.read(np.arange(dataset.size))


def test_a_restart_reads_the_same_batches(photos: Path) -> None:
    """In another process, with another number of threads, from the middle of an epoch."""
    code = f"""
import sys, hashlib
from vitmodel.data.crops import Crops
from vitmodel.data.reader import Dataset, LoadedBatch, ReadOptions
dataset = Dataset({str(photos)!r}, "train", 32, reading=ReadOptions(threads=2), crops=Crops(seed=3, flip=True))
order = dataset.order(seed=1, lanes=8, window=16)
for loaded in dataset.batches(order.batch(step, 16) for step in range(5, 9)):
    print(hashlib.sha256(loaded.images.tobytes() + loaded.batch.samples.tobytes()).hexdigest())
"""
    import hashlib

    dataset = Dataset(photos, "train", 32, reading=ReadOptions(threads=1), crops=Crops(seed=3, flip=True))
    order = dataset.order(seed=1, lanes=8, window=16)
    unbroken = [
        hashlib.sha256(loaded.images.tobytes() + loaded.batch.samples.tobytes()).hexdigest()
        for loaded in dataset.batches(order.batch(step, 16) for step in range(9))
    ]
    resumed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert resumed == unbroken[5:]


def test_reading_stops_when_the_iterator_is_closed(photos: Path) -> None:
    torch.set_num_threads(1)
    dataset = Dataset(photos, "train", 32, reading=ReadOptions(cache="off", threads=2))
    order = dataset.order(seed=0, lanes=4, window=8)
    source = dataset.batches(order.batch(step, 16) for step in range(10**9))
    next(source)
    started = time.monotonic()
    source.close()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("workers", [1, 2])
def test_evaluation_reads_ahead_and_counts_each_sample_once(
    photos: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The next batch is read while the model processes the first; every sample is evaluated once, for any workers."""
    dataset = Dataset(photos, "train", 16, reading=ReadOptions(cache="off"))
    load, started, next_started = dataset.load, [], threading.Event()

    def counted(batch: Batch) -> LoadedBatch:
        started.append(batch)
        if len(started) > 1:
            next_started.set()
        return load(batch)

    def scores(images: torch.Tensor, labels: torch.Tensor, samples: np.ndarray) -> dict[str, torch.Tensor]:
        assert next_started.wait(20)
        assert torch.equal(labels, torch.from_numpy(dataset.labels[samples]))
        return {"sum": torch.from_numpy(samples).double()}

    monkeypatch.setattr(dataset, "load", counted)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda totals: None)  # keep each worker's part
    parts = [mean_scores(scores, dataset, batch_size=8, worker=worker, workers=workers) for worker in range(workers)]
    assert sum(part["eval/samples"] for part in parts) == dataset.size
    assert sum(part["sum"] * part["eval/samples"] for part in parts) == pytest.approx(sum(range(dataset.size)))
