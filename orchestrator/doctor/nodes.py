"""`python -m orchestrator.doctor.nodes FOLDER`: the nodes of the cluster of RAY_ADDRESS that do not see a folder.

Prints [addresses of these nodes, number of all nodes] as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import uuid
from pathlib import Path

NODE_SECONDS = 40.0


def main(folder: Path) -> None:
    """Write a file to the folder, look for it on every node, remove it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(logging_level=logging.ERROR, log_to_driver=False)
    probe = folder / f".probe-{uuid.uuid4().hex[:8]}"
    probe.write_text("")
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]

        def sees(path: str) -> bool:
            return Path(path).exists()

        task = ray.remote(num_cpus=0)(sees)
        replies = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(str(probe))
            for node in alive
        ]
        ready = set(ray.wait(replies, num_returns=len(replies), timeout=NODE_SECONDS)[0])
        is_visible = [reply in ready and ray.get(reply) for reply in replies]
        blind = [node["NodeManagerAddress"] for node, visible in zip(alive, is_visible, strict=True) if not visible]
        print(json.dumps([blind, len(alive)]))
    finally:
        probe.unlink()
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
