"""This machine: versions against the tested ranges, GPUs, shared memory, open files."""

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

SHM_BYTES = 2 * 2**30  # Ray's object store and NCCL's buffers lie there
OPEN_FILES = 4096  # sockets and shards of a node with some dozens of workers


def versions() -> list[Finding]:
    """Installed packages against the ranges of pyproject.toml, one line for all that are right."""
    wrong, right = [], []
    for text in requirements():
        asked = Requirement(text)
        if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(asked.name)
        except metadata.PackageNotFoundError:
            wrong.append(fail(f"{asked.name} is not installed", f"pip install '{text}'"))
            continue
        if asked.specifier.contains(found, prereleases=True):
            right.append(f"{asked.name} {found}")
        else:
            wrong.append(warn(f"{asked.name} {found} is outside the tested range {asked.specifier}", f"pip install '{text}'"))
    named = [name for name in right if name.split()[0] in ("torch", "ray", "deepspeed", "mlflow")]
    return [
        *wrong,
        ok(f"{len(right)} packages within the tested ranges: {', '.join(named)}; python {platform.python_version()}"),
    ]


def requirements() -> list[str]:
    """What vitscale depends on: from its source tree, else from what is installed."""
    source = Path(__file__).parents[2] / "pyproject.toml"
    if source.is_file():
        listed: list[str] = tomllib.loads(source.read_text())["project"]["dependencies"]
        return listed
    return metadata.requires("vitscale") or []


def gpus() -> list[Finding]:
    """What the driver sees and what torch sees must agree."""
    seen = _nvidia_smi()
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not seen and not usable:
        return [ok("no GPU on this machine: the same study runs on its CPUs")]
    if usable < len(seen):
        mend = "a build of torch for this driver; CUDA_VISIBLE_DEVICES empty hides them"
        return [fail(f"nvidia-smi lists {len(seen)} GPU(s), torch {torch.__version__} sees {usable}", mend)]
    return [ok(f"{usable} GPU(s): {', '.join(sorted(set(seen))) or torch.cuda.get_device_name(0)}")]


def _nvidia_smi() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=15)
    return found.stdout.split("\n")[:-1] if found.returncode == 0 else []


def limits() -> list[Finding]:
    """Shared memory and open files: both end a study hours after its start, with messages that name neither."""
    shared = os.statvfs("/dev/shm")
    size = shared.f_frsize * shared.f_blocks
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found = [ok(f"/dev/shm has {size / 2**30:.1f} GiB")]
    if size < SHM_BYTES:
        mend = "docker run --shm-size=8g; in Kubernetes an emptyDir with medium: Memory at /dev/shm"
        found = [warn(f"/dev/shm has {size / 2**20:.0f} MiB: Ray falls back to the disk, NCCL fails", mend)]
    if files != resource.RLIM_INFINITY and files < OPEN_FILES:
        return [*found, warn(f"ulimit -n is {files}", f"ulimit -n 65536 before `ray start`; {OPEN_FILES} at least")]
    return [*found, ok(f"ulimit -n is {files}")]
