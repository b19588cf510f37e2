"""Drains this machine's Ray nodes before the machine is shut down, so that the runs on it save a checkpoint (docs/cluster.md).

leave.py now            drain, then wait until no training worker is left on this machine (the preStop hook of a pod)
leave.py aws | gcp      wait for the cloud's notice that this spot machine will be reclaimed, then do the same

Needs RAY_AUTH_MODE as `ray start` has it. Notices: EC2's instance metadata, spot/instance-action, two minutes ahead; Compute
Engine's metadata, instance/preempted, 30 seconds ahead. Exit codes: 0 drained; 1 no node found, or one could not be drained.
"""

from __future__ import annotations

import argparse
import http.client
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 2.0
METADATA = "http://169.254.169.254"
NOTICE_SECONDS = {"now": 90, "aws": 110, "gcp": 25}  # from the notice to the shutdown, less the time of one poll


@dataclass(frozen=True, kw_only=True)
class Node:
    """A Ray node on this machine."""

    raylet: psutil.Process
    node_id: str
    gcs_address: str


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Drain this machine's Ray nodes before the machine is shut down.")
    parser.add_argument("when", choices=NOTICE_SECONDS, help="now, or when this cloud gives notice")
    parser.add_argument("--seconds", type=int, help="time from the notice to the shutdown")
    parser.add_argument("--node-id", default="", help="only this Ray node, where several run on this machine")
    parser.add_argument("--metadata", default=METADATA, help="address of the cloud's metadata service")
    options = parser.parse_args()
    while options.when != "now" and not has_notice(options.when, options.metadata):
        time.sleep(POLL_SECONDS)
    deadline = time.monotonic() + (options.seconds or NOTICE_SECONDS[options.when])
    nodes, skipped = find_nodes(options.node_id)
    if not nodes:
        wanted = f"Ray node {options.node_id} does not run" if options.node_id else "no Ray node runs"
        reasons = f"; skipped raylet processes: {', '.join(skipped)}" if skipped else ""
        print(f"error: {wanted} on this machine, nothing was drained{reasons}", file=sys.stderr)
        return 1
    drained = [node for node in nodes if drain(node, deadline)]
    while time.monotonic() < deadline and any(has_training_worker(node) for node in drained):
        time.sleep(POLL_SECONDS)
    return 0 if drained == nodes else 1


def has_notice(cloud: str, metadata: str) -> bool:
    """Whether the cloud has announced that it reclaims this machine. A request that fails counts as no notice."""
    try:
        if cloud == "gcp":
            return request(f"{metadata}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}) == "TRUE"
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = request(f"{metadata}/latest/api/token", lifetime, method="PUT")
        return bool(request(f"{metadata}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}))
    except (OSError, http.client.HTTPException, ValueError):  # includes 404, the answer while there is no notice
        return False


def request(url: str, headers: dict[str, str], method: str = "GET") -> str:
    message = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(message, timeout=2) as answer:
        return str(answer.read().decode()).strip()


def find_nodes(node_id: str) -> tuple[list[Node], list[str]]:
    """Ray's nodes on this machine, or the one with this id; and the processes called raylet that could not be used.

    A pod whose first process does not reap its children has zombies, and other users may run Ray, too.
    """
    nodes, skipped = [], []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] != "raylet":
            continue
        try:
            options = dict(part.split("=", 1) for part in process.cmdline() if part.startswith("--") and "=" in part)
            node = Node(raylet=process, node_id=options["--node_id"], gcs_address=options["--gcs-address"])
        except psutil.ZombieProcess:
            skipped.append(f"{process.pid} (zombie)")
        except psutil.NoSuchProcess:
            skipped.append(f"{process.pid} (ended)")
        except psutil.Error as error:
            skipped.append(f"{process.pid} ({type(error).__name__})")
        except KeyError as error:
            skipped.append(f"{process.pid} (no option {error.args[0]} in its command line)")
        else:
            if node_id in ("", node.node_id):
                nodes.append(node)
    return nodes, skipped


def drain(node: Node, deadline: float) -> bool:
    """From now on Ray starts nothing new on this node, and vitscale's workers on it save and exit. False where Ray refused."""
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "this machine will be shut down"]
    remaining = ["--deadline-remaining-seconds", str(max(0, int(deadline - time.monotonic())))]
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "drain-node", "--address", node.gcs_address, "--node-id", node.node_id, *reason, *remaining]
    if code := subprocess.run(command, check=False).returncode:
        print(f"error: Ray node {node.node_id} was not drained: `{ray} drain-node` ended with {code}", file=sys.stderr)
    return code == 0


def has_training_worker(node: Node) -> bool:
    """Whether a worker of Ray Train runs on this node."""
    children: list[psutil.Process] = []
    with suppress(psutil.Error):  # the raylet has ended
        children = node.raylet.children()
    for child in children:
        with suppress(psutil.Error):
            if any("RayTrainWorker" in part for part in child.cmdline()):
                return True
    return False


if __name__ == "__main__":
    sys.exit(main())
