"""Images per second, as normalised float batches of 128: ours compared with common libraries, on the same images.

    python bench/data.py [--peers-python PATH] [--cores 1,2] [--workloads PHOTO,SMALL,CACHED] [--seconds 4] [--rounds 3]
    python bench/data.py --limits   time to the first batch of a resumed run, and memory (data_limits.py)

PHOTO: JPEGs of 500 x 375 pixels and about 84 KB to 224 px, random-resized crop and flip. SMALL: PNGs of 32 px, flip. CACHED:
SMALL, read once and cached decoded (ours only). Every side has the same encoded images in its own format and does the same
work, in its own process bound to the same cores. The sides take turns; the median round counts. On one core no side has loader
processes; on two, the peers have two processes and ours has two threads for photos. The peers run on --peers-python, an
environment with torch, Pillow and any of webdataset, litdata, mosaicml-streaming, datasets, grain. A peer that cannot be
imported is reported and left out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from data_limits import widen
from numpy.typing import NDArray

from vitmodel.data.index import load_index
from vitmodel.training import allocator

PEERS = ("webdataset", "litdata", "streaming", "datasets", "grain", "files")
IMAGES = {"PHOTO": 1024, "SMALL": 12_288}
SIDES, LIMITS = (Path(__file__).with_name(name) for name in ("data_sides.py", "data_limits.py"))


def cuts(count: int, size: tuple[int, int], lowest: float, highest: float) -> list[NDArray[np.uint8]]:
    """Random crops of scikit-learn's two photographs; `lowest` and `highest` bound their width as a fraction of the whole."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    sources, random, crops = load_sample_images().images, np.random.default_rng(0), []
    for number in range(count):
        width = int(random.uniform(lowest, highest) * 569)
        height = width * size[1] // size[0]
        x, y = random.integers(0, 641 - width), random.integers(0, 428 - height)
        part = Image.fromarray(sources[number % 2]).crop((x, y, x + width, y + height))
        crops.append(np.asarray(part.resize(size, Image.Resampling.BICUBIC)))
    return crops


def write_files(root: Path, workload: str) -> None:
    """root/files/{0,1}/NUMBER.jpg or .png, the input of every side."""
    from PIL import Image

    photo = workload == "PHOTO"
    images = cuts(IMAGES[workload], (500, 375), 0.8, 1.0) if photo else cuts(IMAGES[workload], (32, 32), 0.06, 0.5)
    for number, image in enumerate(images):
        buffer = io.BytesIO()
        if photo:
            Image.fromarray(image).save(buffer, "JPEG", quality=96)
        else:
            Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        path = root / "files" / str(number % 2) / f"{number:06d}.{'jpg' if photo else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())


def pack_ours(root: Path) -> None:
    """Pack the same files as shards with our index."""
    from vitmodel.data.descriptions import FolderFormat, PackConfig
    from vitmodel.data.shards import pack

    config = PackConfig(path=str(root / "files"), files=FolderFormat(format="folder"), hold_out={"val": 0.02})
    pack(config, root / "ours", processes=1)


def run_side(python: str, arguments: list[str], cores: int) -> str | None:
    """The last line that a side prints, or None if it cannot run."""
    affinity = ["taskset", "-c", ",".join(map(str, range(cores)))]
    tuned = allocator.ENVIRONMENT if arguments[1] == "ours" else {}  # as our workers are started
    command, environment = [*affinity, python, str(SIDES), *arguments], {**os.environ, **tuned}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    if done.returncode:
        print(f"  {arguments[1]:<12} left out: {(done.stderr.strip().splitlines() or ['no reason given'])[-1][:110]}")
        return None
    return done.stdout.strip().splitlines()[-1]


def prepare(root: Path, workload: str, peers_python: str | None) -> list[str]:
    """Write the images in every side's format. Returns the peers that can run."""
    write_files(root, workload)
    pack_ours(root)
    if peers_python is None:
        print("  peers left out: --peers-python is not given")
        return []
    return [peer for peer in PEERS if run_side(peers_python, ["prepare", peer, workload, str(root)], 2)]


def measure(root: Path, workload: str, sides: dict[str, str], cores: int, options: argparse.Namespace) -> dict[str, float]:
    """Median images per second of every side, measured in turn."""
    rounds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in [side for side in sides if side in rounds]:
            speed = run_side(sides[side], ["measure", side, workload, str(root), str(cores), str(options.seconds)], cores)
            if speed is None:
                del rounds[side]
            else:
                rounds[side].append(float(speed))
    return {side: statistics.median(speeds) for side, speeds in rounds.items()}


def limits() -> None:
    """Time to the first batch of a resumed run, and memory; each in a new process on one core."""
    with tempfile.TemporaryDirectory(prefix="vsd") as name:
        small, photo, many = (Path(name) / part for part in ("SMALL", "PHOTO", "many"))
        for root in (small, photo):
            write_files(root, root.name)
            pack_ours(root)
        widen(small / "ours", many)
        for limit, root in (("first", small / "ours"), ("first", many), ("growth", photo / "ours")):
            command = ["taskset", "-c", "0", sys.executable, str(LIMITS), limit, str(root)]
            figures = json.loads(subprocess.check_output(command, env={**os.environ, **allocator.ENVIRONMENT}))
            samples = load_index(root).splits["train"].samples
            print(f"  {samples:10,} samples  " + ", ".join(f"{what} {figure:.2f}" for what, figure in figures.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers-python", help="Python interpreter of an environment with the peers")
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--workloads", default="PHOTO,SMALL,CACHED")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limits", action="store_true", help="time to the first batch, and memory, instead of speed")
    options = parser.parse_args()
    if options.limits:
        limits()
        return
    for workload in options.workloads.split(","):
        print(workload)
        with tempfile.TemporaryDirectory(prefix="vsd") as name:
            files = "SMALL" if workload == "CACHED" else workload
            peers = prepare(Path(name), files, None if workload == "CACHED" else options.peers_python)
            sides = {"ours": sys.executable, **dict.fromkeys(peers, options.peers_python)}
            for cores in map(int, options.cores.split(",")):
                speeds = measure(Path(name), workload, sides, cores, options)
                for side, speed in sorted(speeds.items(), key=lambda item: -item[1]):
                    print(f"  {cores} core{'s' * (cores > 1)}  {side:<12} {speed:10,.0f} images/s")
                if others := [speed for side, speed in speeds.items() if side != "ours"]:
                    print(f"  {cores} core{'s' * (cores > 1)}  ours / best peer = {speeds['ours'] / max(others):.2f}")


if __name__ == "__main__":
    main()
