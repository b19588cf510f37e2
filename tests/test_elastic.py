"""Elastic worker groups on a real Ray cluster of two nodes: SIGTERM, a node that is drained and replaced, one that dies."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from conftest import ROOT, TINY, bundle_of, clean_environment, study_command
from processes import named
from ruamel.yaml import YAML

from orchestrator import results
from orchestrator.execution import worker
from orchestrator.prepare import prepare
from orchestrator.store.attempts import attempts_of
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.records import AttemptEnding

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS, SAVE = 1600, 20
ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20", "RAY_AUTH_MODE": "disabled"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of the study."""

    row: pd.Series
    folder: RunFolder
    last_exit: int
    output: str


DIED = (AttemptEnding.FAILURE, AttemptEnding.KILLED)


def write_study(folder: Path) -> Path:
    """One pretraining of a small ViT, with an average of its weights, by one or two workers."""
    content = YAML(typ="safe").load(TINY)
    del content["transfer"], content["probe"]
    models = content["pretrain"]["models"][:1]
    content["pretrain"].update(sizes=[256], models=models, lengths=[{"steps": STEPS}])
    content["pretrain"]["recipe"]["vit"] |= {"ema": 0.99, "lr": 1e-3}
    content["resources"] = {"workers": {"min": 1, "max": 2}, "zero_stage": 1, "checkpoint": {"every": f"{SAVE} steps"}}
    content["on_failure"] = {"retries": {"failures": 2, "preemptions": 2, "pause_seconds": 0}}
    path = folder / "tiny.yaml"
    with path.open("w") as file:
        YAML().dump(content, file)
    return path


def until(condition: Callable[[], Any], driver: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def begun(folder: RunFolder, attempt: int) -> tuple[int, int]:
    """(workers, first logged step or 0) of an attempt."""
    lines = [json.loads(line) for line in folder.metrics_files()[attempt].read_text().splitlines()]
    return lines[0]["workers"], next((line["step"] for line in lines if "step" in line), 0)


def at_work(folder: RunFolder, workers: int, since: int) -> int | None:
    """The first attempt from number `since` on in which `workers` workers have made steps."""
    for attempt in range(since, folder.attempts()):
        size, step = begun(folder, attempt)
        if size == workers and step:
            return attempt
    return None


def train_workers() -> list[psutil.Process]:
    """Ray Train's workers on this machine that belong to the cluster of this test."""
    mine = {child.pid for child in psutil.Process().children(recursive=True)}
    workers = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.pid in mine and any("RayTrainWorker" in part for part in process.info["cmdline"] or []):
            workers.append(process)
    return workers


def node_of_trial() -> str:
    """The id of the node of the trial, which starts the groups."""
    children = psutil.Process().children(recursive=True)
    (trial,) = named(children, "ray::ImplicitFunc")
    (node,) = [part.partition("=")[2] for part in trial.parent().cmdline() if part.startswith("--node_id=")]
    return node


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """A cluster of a head and a node with one CPU each, and that node.

    The head has one byte of memory, which a trial requests, so the trial is placed on the other node until that is drained.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "memory": 1})
    try:
        yield cluster, cluster.add_node(num_cpus=1)
    finally:
        cluster.shutdown()


class Ec2(BaseHTTPRequestHandler):
    """EC2's instance metadata: only a token, until the machine is to be reclaimed."""

    is_reclaimed = False

    def do_PUT(self) -> None:
        self._answer(200 if "X-aws-ec2-metadata-token-ttl-seconds" in self.headers else 400, "a token")

    def do_GET(self) -> None:
        is_allowed = self.headers["X-aws-ec2-metadata-token"] == "a token"
        is_known = self.is_reclaimed and self.path == "/latest/meta-data/spot/instance-action"
        self._answer(401 if not is_allowed else 200 if is_known else 404, '{"action": "terminate", "time": "..."}')

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def spot_watch(node: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`cluster/leave.py` for a node, with a stand-in for EC2's metadata."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Ec2) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, str(ROOT / "cluster/leave.py"), "aws", "--node-id", node.node_id]
        command += ["--metadata", f"http://127.0.0.1:{server.server_port}"]
        watch = subprocess.Popen(command, env={**clean_environment(), **ENVIRONMENT})
        try:
            yield watch
        finally:
            watch.kill()
            server.shutdown()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    with pytest.MonkeyPatch.context() as patch, two_nodes() as (cluster, node):
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield run_with_faults(tmp_path_factory.mktemp("study"), cluster, node)


def run_with_faults(tmp: Path, cluster: Any, node: Any) -> Outcome:
    environment = {**clean_environment(), **ENVIRONMENT, "RAY_ADDRESS": cluster.address}
    (run,) = prepare(write_study(tmp), str(tmp / "runs")).plan.runs
    folder = Store(tmp / "runs").run(run.run_id)

    driver = subprocess.Popen(
        study_command(write_study(tmp), tmp / "runs"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with spot_watch(node) as watch:
        until(lambda: folder.path.exists() and at_work(folder, 2, 0) is not None, driver)
        train_workers()[0].terminate()
        until(lambda: at_work(folder, 2, 1) is not None, driver)
        assert watch.poll() is None
        assert node_of_trial() == node.node_id
        alone_from = folder.attempts()
        Ec2.is_reclaimed = True
        until(lambda: at_work(folder, 1, alone_from) is not None, driver)
        assert watch.wait(timeout=30) == 0, "no training worker is left on the node"
    cluster.remove_node(node, allow_graceful=False)
    node = cluster.add_node(num_cpus=1)
    until(lambda: at_work(folder, 2, alone_from + 1) is not None, driver)
    alone_from = folder.attempts()
    cluster.remove_node(node, allow_graceful=False)
    until(lambda: at_work(folder, 1, alone_from) is not None, driver)
    output = driver.communicate(timeout=400)[0]
    row = results.collect(tmp / "runs", "tiny").iloc[0]
    return Outcome(
        row=row,
        folder=folder,
        last_exit=driver.returncode,
        output=output,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, float], dict[str, Any]]:
    """The same run by one worker, without Ray and without faults: (losses, result)."""
    tmp = tmp_path_factory.mktemp("unbroken")
    prepared = prepare(write_study(tmp), str(tmp / "runs"))
    worker.work({"orders": bundle_of(prepared).model_dump_json()})
    folder = prepared.store.run(prepared.plan.runs[0].run_id)
    result = folder.result()
    assert result is not None
    return {entry["step"]: entry["train/loss"] for entry in folder.metrics()}, result


def test_preemption_loses_no_step_and_a_dead_node_few(outcome: Outcome) -> None:
    assert outcome.last_exit == 0, outcome.output
    assert outcome.row["status"] == "DONE"
    attempts = attempts_of(outcome.folder)
    ends = [attempt.end for attempt in attempts]
    sizes = [begun(outcome.folder, number)[0] for number in range(len(ends))]
    terminated, drained = (number for number, end in enumerate(ends) if end is AttemptEnding.PREEMPTION)
    for preempted in terminated, drained:
        step = int(attempts[preempted].reason.partition("step ")[2].split()[0])
        assert begun(outcome.folder, preempted + 1)[1] - step in range(1, STEPS // 40 + 1), "it resumed at that step"
        assert sizes[preempted] == 2
    assert sizes[drained + 1] == 1, "not on the drained node"
    assert 2 in sizes[drained + 2 :], "two workers again after it was replaced"
    assert sum(ends.count(end) for end in DIED) <= 2 + 1  # the last attempt has a result and no record of its end
    assert sizes[-1] == outcome.row["workers"] == 1, "one worker continued after the node had died"
    assert outcome.row["attempts"] == len(ends)


def test_losses_and_result_equal_the_undisturbed_run(
    outcome: Outcome, unbroken: tuple[dict[int, float], dict[str, Any]]
) -> None:
    losses, result = unbroken
    curve = {entry["step"]: entry["train/loss"] for entry in outcome.folder.metrics()}
    assert curve.keys() == losses.keys()
    assert max(abs(curve[step] - losses[step]) for step in losses) <= 1e-3
    ours = outcome.folder.result()
    assert ours is not None
    assert abs(ours.metrics["eval/loss"] - result.metrics["eval/loss"]) <= 1e-3, "of the averaged weights"
