"""A study small enough to run in a test, and functions that change and run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from orchestrator.execution.orders import BundleOrders
    from orchestrator.prepare import Prepared

ROOT = Path(__file__).parents[1]
CHAINS = {  # long files, in two chains that run in parallel; files that use Ray's default ports are in the same chain
    "test_elastic": "default ports",
    "test_survival": "default ports",
    "test_doctor": "default ports",
    "test_study": "studies",
    "test_hosts": "studies",
}
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the test processes share the cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long chains first: they often wait, and other tests can use the cores."""
    items.sort(key=lambda item: item.path.stem not in CHAINS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, the tests of a file, and of a chain, run in one process."""
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            stem = Path(nodeid.partition("::")[0]).stem
            return CHAINS.get(stem, stem)

    return FileScheduling(config, log)


TINY = """\
name: tiny
datasets:
  fractals: {generate: fractals, classes: 4, train: 256, val: 64, image_size: 16, points: 256}
  digits: {generate: digits, image_size: 16}
pretrain:
  data: fractals
  resolution: 16
  sizes: [128, 256]
  lengths: [{epochs: 2}]
  models:
    - {family: vit, variant: V16/8, width: 16, depth: 1, mlp_dim: 32, heads: 2, patch: 8}
    - {family: resnet, variant: R4, stages: [1, 1], width: 4, block: basic, stem: stride2, groups: 2}
  recipe:
    vit: {preset: micro_vit, batch_size: 32}
    resnet: {preset: micro_resnet, batch_size: 32}
transfer:
  tasks: [digits]
  epochs: [1, 2]
  resolution: 16
  recipe: {preset: micro_vit_finetune}
probe:
  tasks: [digits]
  shots: [5]
"""

Change = Callable[[dict[str, Any]], None]
WriteStudy = Callable[..., Path]


@pytest.fixture
def write_study(tmp_path: Path) -> WriteStudy:
    """`write_study(change)`: the tiny study's file, after `change` was made to its content."""
    return study_writer(tmp_path)


def study_writer(folder: Path) -> WriteStudy:
    """The function of the fixture `write_study`, for any folder."""

    def write(change: Change | None = None, name: str = "tiny.yaml") -> Path:
        yaml = YAML()
        content = yaml.load(TINY)
        if change:
            change(content)
        path = folder / name
        with path.open("w") as file:
            yaml.dump(content, file)
        return path

    return write


class Pairs:
    """Trains runs one after another, each by two worker processes forked from one that has the libraries loaded."""

    def __init__(self, folder: Path) -> None:
        self._stderr = folder / "stderr.txt"
        command = [sys.executable, str(ROOT / "tests/group_worker.py")]
        environment = {**clean_environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        with self._stderr.open("w") as stderr:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, env=environment)

    def train(self, config: Any, data: Path, folder: Path, **job: Any) -> tuple[dict[str, float], list[float]]:
        """Train a run with two workers over gloo; returns its result and its losses."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder.mkdir()
        keys = {"config": config.model_dump(mode="json"), "data": str(data), "folder": str(folder), "name": "pair"}
        print(json.dumps([2, [{**keys, "stop": 1e9, "save_steps": None, **job}]]), file=self._process.stdin, flush=True)
        line = "\n"
        while line and not line.startswith("["):
            line = self._process.stdout.readline()
        assert line == "[0, 0]\n", self._stderr.read_text()[-3000:]
        outcome = json.loads(Path(f"{folder}-pair-0.json").read_text())
        return outcome["result"], list(outcome["losses"].values())

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    started = Pairs(tmp_path_factory.mktemp("pairs"))
    yield started
    started.end()


def bundle_of(prepared: Prepared) -> BundleOrders:
    """The orders of the only bundle of a planned study, after its data was packed."""
    from orchestrator.execution.launch import make_orders
    from vitmodel.data.shards import pack

    for name, spec in prepared.file.study.datasets.items():
        pack(spec, Path(prepared.plan.datasets[name]))
    prepared.store.write_plan(prepared.plan_file([]))
    (bundle,) = prepared.local_bundles()
    return make_orders(prepared.file.study, prepared.plan, bundle, prepared.store)


def groups_of_two(jobs: list[tuple[BundleOrders, dict[str, str]]], folder: Path) -> tuple[list[list[list[int]]], str]:
    """Work through bundles with groups of two workers, without Ray, injecting faults.

    Returns the exit codes of every group of every bundle, and the end of stderr.
    """
    (folder / "jobs.json").write_text(json.dumps([[orders.model_dump(mode="json"), faults] for orders, faults in jobs]))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/bundle_worker.py"), str(folder / "jobs.json")],
        env={**clean_environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")], done.stderr[-5000:]


def run_study(study: Path, storage: Path, *arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run the study command in its own process."""
    return subprocess.run(study_command(study, storage, *arguments), capture_output=True, text=True, check=False, **kwargs)


def study_command(study: Path, storage: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator.study", str(study), "--storage", str(storage), *arguments]


def without_ray(study: Path, storage: Path) -> list[str]:
    """The study command with all runs executed one after another in its own process."""
    return [sys.executable, str(ROOT / "tests/without_ray.py"), str(study), str(storage)]


def clean_environment() -> dict[str, str]:
    """This process's environment without the variables of Ray, process groups and pytest.

    Ray's workers get niceness 0. With its default of 15 they would hardly run while other tests use all cores.
    """
    prefixes = ("RAY_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS", "PYTEST_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return {**variables, "RAY_worker_niceness": "0"}


ONE_THREAD = {**clean_environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
