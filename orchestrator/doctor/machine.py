"""Checks of this machine: package versions against the tested ranges, GPUs, shared memory, open files."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from orchestrator.doctor.finding import Finding, fail, ok, warn

SHM_BYTES = 2 * 2**30  # Ray's object store and NCCL's buffers are there
OPEN_FILES = 4096  # sockets and shards of a node with some dozens of workers


def versions() -> list[Finding]:
    """Installed packages against the ranges of pyproject.toml; one finding for all that are within."""
    wrong, right = [], []
    for text in requirements():
        required = Requirement(text)
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(required.name)
        except metadata.PackageNotFoundError:
            wrong.append(fail(f"{required.name} is not installed", f"pip install '{text}'"))
            continue
        if required.specifier.contains(version, prereleases=True):
            right.append(f"{required.name} {version}")
        else:
            message = f"{required.name} {version} is outside the tested range {required.specifier}"
            wrong.append(warn(message, f"pip install '{text}'"))
    named = [name for name in right if name.split()[0] in ("torch", "ray", "deepspeed", "mlflow")]
    return [
        *wrong,
        ok(f"{len(right)} packages within the tested ranges: {', '.join(named)}; python {platform.python_version()}"),
    ]


def requirements() -> list[str]:
    """The dependencies of vitscale: from its source tree, else from the installed package."""
    source = Path(__file__).parents[2] / "pyproject.toml"
    if source.is_file():
        listed: list[str] = tomllib.loads(source.read_text())["project"]["dependencies"]
        return listed
    return metadata.requires("vitscale") or []


def gpus() -> list[Finding]:
    """The GPUs that nvidia-smi lists and those that torch can use must be the same."""
    listed = _nvidia_smi()
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not listed and not usable:
        return [ok("no GPU on this machine: a study runs on its CPUs")]
    if usable < len(listed):
        fix = "install a build of torch for this driver; check that CUDA_VISIBLE_DEVICES does not hide GPUs"
        return [fail(f"nvidia-smi lists {len(listed)} GPU(s), torch {torch.__version__} can use {usable}", fix)]
    return [ok(f"{usable} GPU(s): {', '.join(sorted(set(listed))) or torch.cuda.get_device_name(0)}")]


def _nvidia_smi() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=15)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def limits() -> list[Finding]:
    """Shared memory and open files. Too little of either ends a study hours after its start, with unclear messages."""
    shared = os.statvfs("/dev/shm")
    size = shared.f_frsize * shared.f_blocks
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    findings = [ok(f"/dev/shm has {size / 2**30:.1f} GiB")]
    if size < SHM_BYTES:
        fix = "docker run --shm-size=8g; in Kubernetes an emptyDir with medium: Memory at /dev/shm"
        text = f"/dev/shm has {size / 2**20:.0f} MiB, less than {SHM_BYTES >> 30} GiB: Ray uses the disk instead, NCCL fails"
        findings = [warn(text, fix)]
    if files != resource.RLIM_INFINITY and files < OPEN_FILES:
        text = f"at most {files:,} open files, fewer than {OPEN_FILES:,}"
        return [*findings, warn(text, "ulimit -n 65536 before `ray start` or `vitscale run`")]
    unlimited = files == resource.RLIM_INFINITY
    return [*findings, ok("any number of open files" if unlimited else f"at most {files:,} open files")]
