"""Faults of a study on one or several hosts (network namespaces): an unplugged cable, killed workers, controllers and drivers.

Every study with faults must end with the rows and the losses of the undisturbed one.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hostlab
import pandas as pd
import psutil
import pytest
from conftest import ROOT, TINY, bundle_of, clean_environment, groups_of_two, study_command
from hostlab import RAY, Host
from processes import alive, family_of, named, within
from ruamel.yaml import YAML
from test_study import curves, outcomes

from orchestrator.execution.network import interface_of
from orchestrator.prepare import prepare
from orchestrator.store.layout import Store
from vitmodel.files import write_json

pytestmark = pytest.mark.timeout(600)
STEPS = 1000
RUN_OF_TWO = {"workers": 2, "cpus_per_worker": 1, "checkpoint": {"every": "50 steps"}}
QUICK_HEALTH_CHECKS = {  # by default Ray declares a silent host dead after 25 s
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}


def study_file(folder: Path) -> Path:
    """One ViT, pretrained by two workers for long enough to be killed in the middle, and probed."""
    content = YAML().load(TINY)
    content["resources"] = RUN_OF_TWO
    content["on_failure"] = {"retries": {"failures": 5, "pause_seconds": 0}}
    content["pretrain"].update(sizes=[128], models=content["pretrain"]["models"][:1], lengths=[{"steps": STEPS}])
    del content["transfer"]
    with (folder / "tiny.yaml").open("w") as file:
        YAML().dump(content, file)
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(file, storage) of the study after it was run by two processes without Ray and without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    prepared = prepare(study_file(folder), str(folder / "runs"))
    groups_of_two([(bundle_of(prepared), {})], folder)
    return folder / "tiny.yaml", folder / "runs"


def test_a_killed_worker_and_a_killed_driver_change_nothing(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    """kill -9 of one of two workers, then of the driver: the group resumes from its checkpoint, then the same command does."""
    (study, reference), storage = undisturbed, tmp_path / "runs"
    driver = start(study, storage)
    await_checkpoint(storage, driver)
    worker, _ = named(psutil.Process(driver.pid).children(recursive=True), "RayTrainWorker")
    worker.kill()
    await_checkpoint(storage, driver)
    run = Store(storage).run(pretrain_of(storage))
    assert run.attempts() == 2
    family = family_of(driver)
    driver.kill()
    driver.wait()
    within(10, lambda: alive(family))
    assert_ends_like(start(study, storage), storage, reference)
    assert run.attempts() == 3


@pytest.mark.slow
def test_a_killed_controller_and_a_driver_that_was_taken_over(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    """kill -9 of a controller, then another driver takes over: each time no process is left, and the same command resumes. The
    private cluster has no dashboard, and refuses clients without its token."""
    (study, reference), storage = undisturbed, tmp_path / "runs"
    driver = start(study, storage)
    strangers = clients_of(driver)
    await_checkpoint(storage, driver)
    (controller,) = named(psutil.Process(driver.pid).children(recursive=True), "TrainController")
    workers = named(psutil.Process(driver.pid).children(recursive=True), "RayTrainWorker")
    assert len(workers) == 2
    output = [client.communicate(timeout=60)[0] for client in strangers]
    assert [client.returncode for client in strangers] == [0, 1], output
    assert "authentication" in output[1].lower()
    controller.kill()
    within(10, lambda: alive(workers))

    await_checkpoint(storage, driver)
    family = family_of(driver)
    assert named(family, "RayTrainWorker")
    taken_over = {"token": "another's", "host": "elsewhere", "pid": 1, "time": time.time() - 3600}
    write_json(storage / "studies/tiny/lease.json", taken_over)
    end = driver.communicate(timeout=60)[0]
    assert driver.returncode == 5
    assert "another driver has taken over the study" in end
    within(10, lambda: alive(family))

    assert_ends_like(start(study, storage), storage, reference)
    assert Store(storage).run(pretrain_of(storage)).attempts() >= 3


def clients_of(driver: subprocess.Popen[str]) -> list[subprocess.Popen[str]]:
    """Two processes that call the private cluster of this driver: one with its token, one without."""
    deadline = time.monotonic() + 120
    while not (nodes := named(psutil.Process(driver.pid).children(recursive=True), "raylet/raylet")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    address = next(part.partition("=")[2] for part in nodes[0].cmdline() if part.startswith("--gcs-address="))
    asks = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20)"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": nodes[0].environ()["RAY_AUTH_TOKEN"]}
    return [
        subprocess.Popen(
            [sys.executable, "-c", asks, address],
            env={**clean_environment(), **mode},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for mode in (token, {"RAY_AUTH_MODE": "disabled"})
    ]


def test_gloo_uses_the_interface_that_ray_uses() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("198.51.100.7") is None


@pytest.fixture
def cluster() -> Iterator[tuple[list[Host], dict[str, str]]]:
    """A head without CPUs and three hosts of one CPU, with a token: (hosts, environment of a driver on the first)."""
    if reason := hostlab.missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="vsh", dir="/tmp") as folder, hostlab.hosts(4) as hosts:
        token = Path(folder, "token")
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        environment = {**clean_environment(), **QUICK_HEALTH_CHECKS, "PYTHONPATH": str(ROOT)}
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        head, quiet = hosts[0], ["--disable-usage-stats", "--include-dashboard=false"]
        at = f"{head.address}:6379"
        options = [f"--node-ip-address={head.address}", "--port=6379", "--num-cpus=0", f"--temp-dir={folder}/ray"]
        ray_start(head, environment, "--head", *options, *quiet)
        for host in hosts[1:]:
            ray_start(host, environment, f"--address={at}", f"--node-ip-address={host.address}", "--num-cpus=1", quiet[0])
        yield hosts, {**environment, "RAY_ADDRESS": at}


@pytest.mark.slow
def test_a_host_is_unplugged_then_the_driver_is_killed_and_the_host_returns(
    cluster: tuple[list[Host], dict[str, str]], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    """A run of two workers on two hosts loses one host and continues on the third. Then its driver is killed, and the same
    command resumes. The unplugged host has returned by then: no process of the run is left on it."""
    (hosts, environment), (study, reference), storage = cluster, undisturbed, tmp_path / "runs"
    driver = start(study, storage, hosts[0], environment)
    await_checkpoint(storage, driver)
    busy = [host for host in hosts[1:] if named(on_host(host), "RayTrainWorker")]
    assert len(busy) == 2, "the workers of one run are on two hosts"
    busy[1].cut()
    left_behind = named(on_host(busy[1]), "RayTrainWorker")
    run = Store(storage).run(pretrain_of(storage))
    await_checkpoint(storage, driver)
    assert run.attempts() > 1
    workers = [process for host in hosts for process in named(on_host(host), "RayTrainWorker")]
    driver.kill()
    driver.wait()
    busy[1].reconnect()
    within(10, lambda: alive([process for process in workers if process not in left_behind]))
    assert_ends_like(start(study, storage, hosts[0], environment), storage, reference)
    within(10, lambda: alive(left_behind))


def ray_start(host: Host, environment: dict[str, str], *options: str) -> None:
    command = host.command(RAY, "start", *options)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def start(study: Path, storage: Path, host: Host | None = None, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = study_command(study, storage)
    return subprocess.Popen(
        host.command(*command) if host else command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env or clean_environment(),
    )


def pretrain_of(storage: Path) -> str:
    return next(path.name for path in (storage / "runs").iterdir() if path.name.startswith("pretrain"))


def await_checkpoint(storage: Path, driver: subprocess.Popen[str]) -> None:
    """Wait until the run has a new checkpoint."""
    before, deadline = checkpoints(storage), time.monotonic() + 240
    while not checkpoints(storage) - before:
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)


def checkpoints(storage: Path) -> set[str]:
    return {path.parent.name for path in storage.glob("runs/pretrain-*/checkpoints/step-*/COMPLETE")}


def on_host(host: Host) -> list[psutil.Process]:
    listing = subprocess.run([hostlab.IP, "netns", "pids", host.namespace], capture_output=True, text=True, check=True)
    return [psutil.Process(int(pid)) for pid in listing.stdout.split()]


def assert_ends_like(driver: subprocess.Popen[str], storage: Path, reference: Path) -> None:
    """The study succeeds with the same rows and, bit for bit, the same losses."""
    output = driver.communicate(timeout=300)[0]
    assert driver.returncode == 0, output
    pd.testing.assert_frame_equal(outcomes(storage), outcomes(reference))
    assert curves(storage) == curves(reference)
