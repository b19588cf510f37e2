"""One side of bench/data.py. `prepare SIDE WORKLOAD ROOT` writes its format; `measure SIDE WORKLOAD ROOT CORES SECONDS` prints
its images per second. Runs in the peers' environment, so it imports our packages only for our side."""

from __future__ import annotations

import io
import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 128
SIDE_PIXELS = {"PHOTO": 224, "SMALL": 32, "CACHED": 32}


def transform(data: bytes, workload: str) -> Any:
    """A peer's work on one image, with Pillow as in its documentation: (3, S, S) float tensor."""
    import torch
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    if workload == "PHOTO":
        image = image.resize((224, 224), Image.Resampling.BILINEAR, box=_box(*image.size))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(127.5).sub_(1)


def _box(width: int, height: int) -> tuple[int, int, int, int]:
    """The Inception crop as torchvision draws it."""
    for _ in range(10):
        area = width * height * random.uniform(0.05, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = random.randint(0, width - w), random.randint(0, height - h)
            return x, y, x + w, y + h
    return 0, 0, width, height


def ours(workload: str, root: Path, cores: int) -> Iterator[Any]:
    """From files to normalised batches as in the training loop, on the CPU."""
    import torch

    from vitmodel.data.augment import normalise_and_augment
    from vitmodel.data.crops import Crops
    from vitmodel.data.reader import Dataset, ReadOptions

    reading = ReadOptions(cache="auto" if workload == "CACHED" else "off")
    dataset = Dataset(root / "ours", "train", SIDE_PIXELS[workload], reading=reading, crops=Crops(seed=0, flip=True))
    order = dataset.order(seed=0, lanes=16, window=256)
    for loaded in dataset.batches(order.batch(step, BATCH) for step in itertools.count()):
        cpu = torch.device("cpu")
        yield normalise_and_augment(loaded.images, loaded.batch, 0, "none", not loaded.cropped, device=cpu)


def _files(root: Path) -> list[Path]:
    return sorted((root / "files").rglob("*.*g"))


def _loader(dataset: Any, cores: int, **options: Any) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    workers = 0 if cores == 1 else cores
    more = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True, **more, **options)
    while True:
        yield from loader


class _FileDataset:
    """A plain map-style dataset of files."""

    def __init__(self, root: Path, workload: str) -> None:
        self.paths, self.workload = _files(root), workload

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Any:
        path = self.paths[place]
        return transform(path.read_bytes(), self.workload), int(path.parent.name)


def files(workload: str, root: Path, cores: int) -> Iterator[Any]:
    return _loader(_FileDataset(root, workload), cores, shuffle=True)


def webdataset(workload: str, root: Path, cores: int) -> Iterator[Any]:
    import webdataset as wds

    tars = sorted(str(path) for path in (root / "webdataset").glob("*.tar"))
    split = wds.WebDataset(tars, shardshuffle=len(tars), empty_check=False).shuffle(1000)
    dataset = split.to_tuple("jpg;png", "cls").map_tuple(lambda data: transform(data, workload), int)
    return _loader(dataset, cores)


def prepare_webdataset(root: Path) -> None:
    import webdataset as wds

    (root / "webdataset").mkdir()
    with wds.ShardWriter(str(root / "webdataset" / "%05d.tar"), maxcount=256, verbose=0) as writer:
        for path in _files(root):
            writer.write({"__key__": path.stem, path.suffix[1:]: path.read_bytes(), "cls": path.parent.name.encode()})


def litdata(workload: str, root: Path, cores: int) -> Iterator[Any]:
    from litdata import StreamingDataLoader, StreamingDataset

    class Transformed(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> Any:
            data, label = super().__getitem__(index)
            return transform(data, workload), label

    dataset = Transformed(str(root / "litdata"), shuffle=True, drop_last=True)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0 if cores == 1 else cores)
    while True:
        yield from loader


def read_pair(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), int(path.parent.name)


def prepare_litdata(root: Path) -> None:
    from litdata import optimize

    optimize(read_pair, _files(root), str(root / "litdata"), num_workers=1, chunk_bytes="16MB")


def streaming(workload: str, root: Path, cores: int) -> Iterator[Any]:
    from streaming import StreamingDataset

    class Transformed(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> Any:
            sample = super().__getitem__(index)
            return transform(sample["image"], workload), sample["label"]

    return _loader(Transformed(local=str(root / "streaming"), shuffle=True, batch_size=BATCH), cores)


def prepare_streaming(root: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(root / "streaming"), columns={"image": "bytes", "label": "int"}, size_limit=2**24) as writer:
        for path in _files(root):
            writer.write({"image": path.read_bytes(), "label": int(path.parent.name)})


def datasets(workload: str, root: Path, cores: int) -> Iterator[Any]:
    from datasets import load_from_disk

    def apply(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"image": [transform(data, workload) for data in rows["image"]], "label": rows["label"]}

    return _loader(load_from_disk(str(root / "datasets")).with_transform(apply), cores, shuffle=True)


def prepare_datasets(root: Path) -> None:
    from datasets import Dataset

    rows = {"image": [path.read_bytes() for path in _files(root)], "label": [int(path.parent.name) for path in _files(root)]}
    Dataset.from_dict(rows).save_to_disk(str(root / "datasets"))


class _Source:
    """grain's random access to files."""

    def __init__(self, root: Path) -> None:
        self.paths = _files(root)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> bytes:
        return self.paths[place].read_bytes()


class _ToArray:
    def __init__(self, workload: str) -> None:
        self.workload = workload

    def __call__(self, data: bytes) -> Any:
        return transform(data, self.workload).numpy()


def grain(workload: str, root: Path, cores: int) -> Iterator[Any]:
    import grain as library

    samples = library.MapDataset.source(_Source(root)).shuffle(seed=0).map(_ToArray(workload)).repeat()
    threads = library.ReadOptions(num_threads=0 if cores == 1 else cores, prefetch_buffer_size=0 if cores == 1 else 4 * BATCH)
    batches = samples.to_iter_dataset(threads).batch(BATCH, drop_remainder=True)
    return iter(batches)


def rate(batches: Iterable[Any], seconds: float) -> float:
    """Images per second after the first three batches."""
    source = iter(batches)
    for _ in range(3):
        next(source)
    count, started = 0, time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        next(source)
        count += BATCH
    return count / (now - started)


SIDES: dict[str, Callable[[str, Path, int], Iterator[Any]]] = {
    side.__name__: side for side in (ours, files, webdataset, litdata, streaming, datasets, grain)
}
PREPARE: dict[str, Callable[[Path], None]] = {
    "webdataset": prepare_webdataset,
    "litdata": prepare_litdata,
    "streaming": prepare_streaming,
    "datasets": prepare_datasets,
}


def main() -> None:
    import torch

    verb, side, workload, root = *sys.argv[1:4], Path(sys.argv[4])
    if verb == "prepare":
        __import__(side if side != "files" else "torch")
        PREPARE.get(side, lambda root: None)(root)
        print("ready")
        return
    cores = int(sys.argv[5])
    torch.set_num_threads(cores)
    print(rate(SIDES[side](workload, root, cores), float(sys.argv[6])), flush=True)


if __name__ == "__main__":
    main()
