"""Tells Ray that this machine is about to go, so that what trains on it saves first (docs/cluster.md).

leave.py now            drain this machine's node, return once nothing trains on it any more (a pod's preStop hook)
leave.py aws | gcp      wait for the cloud's word that this spot machine is taken back, then the same

Needs RAY_AUTH_MODE as `ray start` has it. The clouds' words: EC2's instance metadata, spot/instance-action, two minutes ahead;
Compute Engine's metadata, instance/preempted, 30 seconds ahead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

LOOK_SECONDS = 2.0
METADATA = "http://169.254.169.254"
AHEAD_SECONDS = {"now": 90, "aws": 110, "gcp": 25}  # of the end, less what asking takes


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Tell Ray that this machine is about to go.")
    parser.add_argument("when", choices=AHEAD_SECONDS, help="now, or at the notice of this cloud")
    parser.add_argument("--seconds", type=int, help="until this machine ends, from its notice on")
    parser.add_argument("--node-id", default="", help="where several of Ray's nodes run on this machine: the one")
    parser.add_argument("--metadata", default=METADATA, help="address of the cloud's metadata")
    options = parser.parse_args()
    while options.when != "now" and not has_notice(options.when, options.metadata):
        time.sleep(LOOK_SECONDS)
    raylets = raylets_here(options.node_id)
    if not raylets:
        sys.exit("Ray does not run here")
    until = time.monotonic() + (options.seconds or AHEAD_SECONDS[options.when])
    for raylet in raylets:
        drain(raylet, until)
    while time.monotonic() < until and any(trains(raylet) for raylet in raylets):
        time.sleep(LOOK_SECONDS)


def has_notice(cloud: str, metadata: str) -> bool:
    """Whether the cloud says that this machine will be taken. No answer is no notice."""
    try:
        if cloud == "gcp":
            return ask(f"{metadata}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}) == "TRUE"
        lasting = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = ask(f"{metadata}/latest/api/token", lasting, method="PUT")
        return bool(ask(f"{metadata}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}))
    except (urllib.error.URLError, TimeoutError, ConnectionError):  # 404 among them: none yet
        return False


def ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=2) as answer:
        return str(answer.read().decode()).strip()


def raylets_here(node_id: str) -> list[psutil.Process]:
    """Ray's own process of each node on this machine, or of this one."""
    found = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "raylet"]
    return [raylet for raylet in found if not node_id or argument(raylet, "--node_id") == node_id]


def argument(raylet: psutil.Process, name: str) -> str:
    given = [part.removeprefix(f"{name}=") for part in raylet.cmdline() if part.startswith(f"{name}=")]
    return given[0] if given else ""


def drain(raylet: psutil.Process, until: float) -> None:
    """From now on Ray starts nothing new on this node, and vitscale's workers on it save and leave."""
    node, head = argument(raylet, "--node_id"), argument(raylet, "--gcs-address")
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "this machine is taken back"]
    left = ["--deadline-remaining-seconds", str(max(0, int(until - time.monotonic())))]
    ray = str(Path(sys.executable).with_name("ray"))
    subprocess.run([ray, "drain-node", "--address", head, "--node-id", node, *reason, *left], check=True)


def trains(raylet: psutil.Process) -> bool:
    """Whether workers of Ray Train run on this node."""
    try:
        return any("RayTrainWorker" in part for child in raylet.children() for part in child.cmdline())
    except psutil.NoSuchProcess:  # gone between two looks
        return raylet.is_running()


if __name__ == "__main__":
    main()
