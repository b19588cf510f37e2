"""Targets and faults of bench/chaos.py: a cluster of several nodes, an image server, MLflow, a small disk, a driver."""

from __future__ import annotations

import errno
import os
import random
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from shardserver import ShardServer

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
NODES = 3
FULL_SECONDS, AWAY_SECONDS, CUT_SECONDS = 3.0, 5.0, 5.0
NOTICE_SECONDS, STOP_SECONDS = 20, 60
LEAVE = Path(__file__).parents[1] / "cluster/leave.py"
HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}


@dataclass
class Scene:
    """Everything that a fault can hit."""

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
    timer: threading.Timer | None = None  # until MLflow is restarted

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

    def await_training(self, seconds: float) -> None:
        """Wait until a run makes steps, at most for this time."""
        since, deadline = time.time(), time.monotonic() + seconds
        while self.is_driven and time.monotonic() < deadline and self.newest_metrics() <= since:
            time.sleep(0.1)

    def newest_metrics(self) -> float:
        """When metrics were last written."""
        newest = 0.0
        for file in self.storage.glob("runs/*/metrics-*.jsonl"):
            with suppress(OSError):
                newest = max(newest, file.stat().st_mtime)
        return newest

    def actors(self, title: str) -> list[psutil.Process]:
        """Processes of this kind of actor on this cluster."""
        processes = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    processes.append(process)
        return processes

    def draw_node(self, draw: random.Random) -> Any:
        """One of the nodes, after any that failed to start was replaced."""
        while len(self.nodes) < NODES:
            self.nodes.append(self.cluster.add_node(num_cpus=1))
        return draw.choice(self.nodes)

    def replace_node(self, node: Any) -> None:
        """kill -9 of a node's processes; another node joins."""
        self.nodes.remove(node)
        try:
            self.cluster.remove_node(node, allow_graceful=False)
        finally:
            self.nodes.append(self.cluster.add_node(num_cpus=1))


# Each fault returns False where its target does not exist yet, and raises where it cannot hit it.


def kill_actor(title: str) -> Callable[[Scene, random.Random], bool]:
    def kill(scene: Scene, draw: random.Random) -> bool:
        processes = scene.actors(title)
        if not processes:
            return False
        draw.choice(processes).kill()
        return True

    return kill


def kill_node(scene: Scene, draw: random.Random) -> bool:
    scene.replace_node(scene.draw_node(draw))
    return True


def drain_node(scene: Scene, draw: random.Random) -> bool:
    """A node whose end is announced: the runs on it save, then it is removed."""
    node = scene.draw_node(draw)
    command = [sys.executable, str(LEAVE), "now", "--seconds", str(NOTICE_SECONDS), "--node-id", node.node_id]
    subprocess.run(command, env=scene.environment, check=True)
    scene.replace_node(node)
    return True


def terminate_driver(scene: Scene, draw: random.Random) -> bool:
    """SIGTERM: every run saves before the driver exits."""
    if scene.driver is None or not scene.is_driven:
        return False
    scene.driver.terminate()
    try:
        scene.driver.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"the driver did not exit within {STOP_SECONDS} s of SIGTERM", flush=True)
        scene.driver.kill()
        scene.driver.wait()
    scene.start_driver()
    return True


def kill_driver(scene: Scene, draw: random.Random) -> bool:
    if scene.driver is None or not scene.is_driven:
        return False
    scene.driver.kill()
    scene.driver.wait()
    scene.start_driver()
    return True


def kill_mlflow(scene: Scene, draw: random.Random) -> bool:
    if scene.mlflow is None or scene.mlflow.poll() is not None:
        return False  # not restarted yet
    scene.stop_mlflow()
    scene.timer = threading.Timer(AWAY_SECONDS, scene.start_mlflow)
    scene.timer.start()
    return True


def cut_reads(scene: Scene, draw: random.Random) -> bool:
    before, deadline = scene.server.cut, time.monotonic() + CUT_SECONDS
    shutil.rmtree(scene.folder / "cache", ignore_errors=True)
    scene.server.cut_for(CUT_SECONDS)
    while scene.server.cut == before and time.monotonic() < deadline:
        time.sleep(0.05)
    return scene.server.cut > before


def fill_disk(scene: Scene, draw: random.Random) -> bool:
    filler = scene.storage / ".filler"
    try:
        with filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        time.sleep(FULL_SECONDS)
        return True
    finally:
        filler.unlink(missing_ok=True)


FAULTS: dict[str, tuple[int, Callable[[Scene, random.Random], bool]]] = {  # each with its weight in the draw
    "worker": (4, kill_actor("ray::RayTrainWorker")),
    "controller": (2, kill_actor("ray::TrainController")),
    "trial": (1, kill_actor("ray::ImplicitFunc")),
    "node": (2, kill_node),
    "driver": (2, kill_driver),
    "mlflow": (1, kill_mlflow),
    "reads cut": (2, cut_reads),
    "disk full": (2, fill_disk),
    "drained node": (2, drain_node),
    "SIGTERM": (1, terminate_driver),
}


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
        print("mounting a tmpfs is not permitted: the fault 'disk full' is left out")
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
    scene.nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES)]
    scene.start_mlflow()
    return scene


def tear_down(scene: Scene) -> None:
    if scene.driver:
        scene.driver.kill()
        scene.driver.wait()
    if scene.timer:
        scene.timer.cancel()
    scene.stop_mlflow()
    scene.cluster.shutdown()
    scene.server.close()
    if scene.is_small:
        time.sleep(2)
        subprocess.run(["umount", "--lazy", str(scene.storage)], check=False)
