"""Chaos: a small study on a local Ray cluster, struck at random, must end with every row and every loss of the unbroken one.

    python bench/chaos.py [--minutes 10] [--seed 0] [--every 8] [--kinds worker "reads cut"]

A head without CPUs and three nodes of one CPU each; runs of two workers; images read through a loopback HTTP server; MLflow as
a server. About every `--every` seconds one thing is done, drawn with the seed: kill -9 of a worker, a controller, a trial, a
node (another joins), the driver (the same command again) or the MLflow server (it comes back), replies for shards cut short
after the node's copies are thrown away, the storage filled to the last byte (a tmpfs; left out, and said, where mounting is not
permitted). What is drawn and is not there at the moment is waited for a while, then another is drawn; only what was really
struck is counted. A study that ends before the time is over is begun again in an empty storage. Exit code 1 where anything is
lost or different.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from shardserver import ShardServer

from orchestrator import results
from orchestrator.store import Store
from vitmodel.data.generated import FractalConfig
from vitmodel.data.shards import pack

STUDY = """\
name: chaos
datasets:
  images: {url: "URL", train: 256, classes: 4, eval_split: val}
pretrain:
  data: images
  resolution: 16
  sizes: [128, 256]
  lengths: [{steps: 600}]
  models:
    - {family: vit, variant: V16/8, width: 16, depth: 1, mlp_dim: 32, heads: 2, patch: 8}
    - {family: resnet, variant: R4, stages: [1, 1], width: 4, block: basic, stem: stride2, groups: 2}
  recipe: {vit: {preset: micro_vit, batch_size: 32}, resnet: {preset: micro_resnet, batch_size: 32}}
transfer: {tasks: [images], epochs: [2], resolution: 16, recipe: {preset: micro_vit_finetune}}
probe: {tasks: [images], shots: [5]}
resources: {workers: 2, cpus_per_worker: 1, cache: off, checkpoint: {every: 100 steps}}
on_failure: {retries: {failures: 50, preemptions: 50, pause_seconds: 0}}
tracking: {mlflow: "MLFLOW"}
"""
STORAGE_BYTES = 192 << 20
FULL_SECONDS, AWAY_SECONDS, CUT_SECONDS = 3.0, 5.0, 5.0
PATIENCE_SECONDS = 5.0  # how long one waits for what was drawn to be there
HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}


@dataclass
class Scene:
    """All that can be struck."""

    folder: Path
    cluster: Any
    server: ShardServer
    study: Path
    port: int
    storage: Path
    is_small: bool
    environment: dict[str, str]
    nodes: list[Any] = field(default_factory=list)
    driver: subprocess.Popen[str] | None = None
    mlflow: subprocess.Popen[bytes] | None = None

    def start_driver(self) -> None:
        command = [sys.executable, "-m", "orchestrator.study", str(self.study), "--storage", str(self.storage)]
        with (self.folder / "driver.log").open("a") as log:
            self.driver = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=self.environment)

    def start_mlflow(self) -> None:
        mlflow = str(Path(sys.executable).parent / "mlflow")
        command = [mlflow, "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--default-artifact-root", str(self.folder / "artifacts")]
        quiet = subprocess.DEVNULL
        self.mlflow = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)

    def stop_mlflow(self) -> None:
        if self.mlflow:
            with suppress(ProcessLookupError):
                os.killpg(self.mlflow.pid, 9)
            self.mlflow.wait()

    @property
    def is_driven(self) -> bool:
        """Whether the study's command is running."""
        return self.driver is not None and self.driver.poll() is None

    def actors(self, title: str) -> list[psutil.Process]:
        """Processes of this kind of actor on this cluster."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return found


def strike_actor(title: str) -> Callable[[Scene, random.Random], bool]:
    def strike(scene: Scene, draw: random.Random) -> bool:
        found = scene.actors(title)
        if not found:
            return False
        with suppress(psutil.NoSuchProcess):
            draw.choice(found).kill()
        return True

    return strike


def strike_node(scene: Scene, draw: random.Random) -> bool:
    node = scene.nodes.pop(draw.randrange(len(scene.nodes)))
    scene.cluster.remove_node(node, allow_graceful=False)
    scene.nodes.append(scene.cluster.add_node(num_cpus=1))
    return True


def strike_driver(scene: Scene, draw: random.Random) -> bool:
    assert scene.driver is not None
    scene.driver.kill()
    scene.driver.wait()
    scene.start_driver()
    return True


def strike_mlflow(scene: Scene, draw: random.Random) -> bool:
    if scene.mlflow is None or scene.mlflow.poll() is not None:
        return False  # still away
    scene.stop_mlflow()
    threading.Timer(AWAY_SECONDS, scene.start_mlflow).start()
    return True


def strike_reads(scene: Scene, draw: random.Random) -> bool:
    before, until = scene.server.cut, time.monotonic() + CUT_SECONDS
    shutil.rmtree(scene.folder / "cache", ignore_errors=True)
    scene.server.cut_for(CUT_SECONDS)
    while scene.server.cut == before and time.monotonic() < until:
        time.sleep(0.05)
    return scene.server.cut > before


def strike_disk(scene: Scene, draw: random.Random) -> bool:
    if not scene.is_small:
        return False
    filler = scene.storage / ".filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    time.sleep(FULL_SECONDS)
    filler.unlink()
    return True


FAULTS: dict[str, tuple[int, Callable[[Scene, random.Random], bool]]] = {  # with how often each is drawn
    "worker": (4, strike_actor("ray::RayTrainWorker")),
    "controller": (2, strike_actor("ray::TrainController")),
    "trial": (1, strike_actor("ray::ImplicitFunc")),
    "node": (2, strike_node),
    "driver": (2, strike_driver),
    "mlflow": (1, strike_mlflow),
    "reads cut": (2, strike_reads),
    "disk full": (2, strike_disk),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=8, help="mean seconds between two faults")
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="only these (all)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vsc", dir="/tmp") as folder:
        scene = set_up(Path(folder))
        try:
            return play(scene, Faults(options.seed, options.every, tuple(options.kinds)), options.minutes)
        finally:
            tear_down(scene)


def set_up(folder: Path) -> Scene:
    cache = {"VITSCALE_NODE_CACHE": str(folder / "cache")}
    for name, value in {**HEALTH, **cache, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
        os.environ[name] = value
    from ray.cluster_utils import Cluster

    pack(FractalConfig(generate="fractals", classes=4, train=256, val=64, image_size=16, points=256), folder / "images")
    server = ShardServer(folder / "images")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    storage = folder / "runs"
    storage.mkdir()
    size = f"size={STORAGE_BYTES}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(storage)], capture_output=True, check=False)
    if mounted.returncode:
        print("the storage is no disk of its own here (mount is not permitted): it is never filled")
    port = ShardServer.free_port()
    study = folder / "chaos.yaml"
    study.write_text(STUDY.replace("URL", server.url).replace("MLFLOW", f"http://127.0.0.1:{port}"))
    scene = Scene(
        folder=folder,
        cluster=cluster,
        server=server,
        study=study,
        port=port,
        storage=storage,
        is_small=not mounted.returncode,
        environment={**os.environ, "RAY_ADDRESS": cluster.address},
    )
    scene.nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    scene.start_mlflow()
    return scene


def tear_down(scene: Scene) -> None:
    if scene.driver:
        scene.driver.kill()
        scene.driver.wait()
    scene.stop_mlflow()
    scene.cluster.shutdown()
    scene.server.close()
    if scene.is_small:
        time.sleep(2)
        subprocess.run(["umount", "--lazy", str(scene.storage)], check=False)


class Faults:
    """When what is struck: drawn with a seed; and how often each was."""

    def __init__(self, seed: int, every: float, kinds: tuple[str, ...]) -> None:
        self._draw, self._every, self._kinds = random.Random(seed), every, kinds
        self.struck, self.over = Counter[str](), math.inf
        self._next = 0.0

    def strike(self, scene: Scene) -> None:
        """One fault, where its time has come and something is there to be struck."""
        if time.monotonic() < self._next or time.monotonic() > self.over:
            return
        (name,) = self._draw.choices(self._kinds, [FAULTS[kind][0] for kind in self._kinds])
        patience = time.monotonic() + PATIENCE_SECONDS
        while not (hit := FAULTS[name][1](scene, self._draw)) and time.monotonic() < patience and scene.is_driven:
            time.sleep(0.1)
        if hit:
            self.struck[name] += 1
            print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
            self._next = time.monotonic() + self._draw.expovariate(1 / self._every)


def play(scene: Scene, faults: Faults, minutes: float) -> int:
    """The unbroken study, then broken ones until the time is over; prints what happened; 1 where anything differs."""
    began = time.monotonic()
    finish(scene, lambda: None)
    expected, unbroken_seconds = taken(scene), time.monotonic() - began
    print(f"unbroken: {len(expected)} runs in {unbroken_seconds:.0f} s", flush=True)
    rounds = different = attempts = again = 0
    broken = time.monotonic()
    faults.over = broken + 60 * minutes
    while time.monotonic() < faults.over:
        empty(scene.storage)
        again += finish(scene, lambda: faults.strike(scene))
        found = taken(scene)
        wrong = [run for run in expected if found.get(run) != expected[run]]
        rounds, different = rounds + 1, different + len(wrong)
        attempts += results.collect(scene.storage, "chaos")["attempts"].sum()
        for run in wrong:
            print(difference(expected[run], found.get(run)))
        print(f"study {rounds}: {len(found)} runs, {len(wrong)} different or lost {wrong[:4]}", flush=True)
    seconds = time.monotonic() - broken
    print(f"\n{'fault':12} times\n" + "\n".join(f"{name:12} {faults.struck[name]:5}" for name in FAULTS))
    print(f"{faults.struck.total()} faults in {seconds:.0f} s, {rounds} studies; {different} rows or curves different or lost")
    print(f"{rounds * len(expected)} runs took {attempts} attempts; the command ended too early by itself {again} times")
    print(f"wall-clock {seconds / rounds:.0f} s a study, {seconds / rounds / unbroken_seconds:.1f} times the unbroken one")
    return int(different > 0)


def finish(scene: Scene, meanwhile: Callable[[], None]) -> int:
    """The study to its end: the same command again as often as it takes. How often it ended by itself before all was done."""
    again = 0
    scene.start_driver()
    while True:
        assert scene.driver is not None
        if (code := scene.driver.poll()) == 0:
            return again
        if code is not None:
            print(f"{time.strftime('%H:%M:%S')} the driver ended with {code}: {last_line(scene)}", flush=True)
            again += 1
            scene.start_driver()
        meanwhile()
        time.sleep(0.2)


def last_line(scene: Scene) -> str:
    return next((line for line in reversed((scene.folder / "driver.log").read_text().splitlines()) if line.strip()), "")


def taken(scene: Scene) -> dict[str, Any]:
    """Every row's outcome and every loss, by run."""
    store = Store(scene.storage)
    rows = results.outcomes(results.collect(scene.storage, "chaos")).set_index("run_id")
    curves = {run: [(e["step"], e["train/loss"]) for e in store.run(run).metrics() if "train/loss" in e] for run in rows.index}
    return {run: json.dumps([rows.loc[run].to_dict(), curves[run]], default=str) for run in rows.index}


def difference(expected: str, found: str | None) -> str:
    """Where two taken runs differ."""
    if found is None:
        return "  no row"
    (row, curve), (its_row, its_curve) = json.loads(expected), json.loads(found)
    fields = [f"{name} {row[name]} {its_row.get(name)}" for name in row if row[name] != its_row.get(name)]
    missing, other = ([e for e in a if e not in b][:3] for a, b in ((curve, its_curve), (its_curve, curve)))
    return f"  row {fields}; of {len(curve)} losses expected and not there {missing}, there and not expected {other}"


def empty(storage: Path) -> None:
    for name in ("runs", "studies", "ray"):
        subprocess.run(["rm", "-rf", str(storage / name)], check=True)


if __name__ == "__main__":
    sys.exit(main())
