"""`python -m orchestrator.doctor.nodes FOLDER`: which nodes of the named cluster do not see a folder. Prints [nodes, count]."""

from __future__ import annotations

import json
import logging
import sys
import uuid
from pathlib import Path

NODE_SECONDS = 40.0


def main(folder: Path) -> None:
    """Write a file, look for it on every node, remove it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(logging_level=logging.ERROR, log_to_driver=False)
    probe = folder / f".probe-{uuid.uuid4().hex[:8]}"
    probe.write_text("")
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]

        def sees(path: str) -> bool:
            return Path(path).exists()

        look = ray.remote(num_cpus=0)(sees)
        asked = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(str(probe))
            for node in alive
        ]
        ready = set(ray.wait(asked, num_returns=len(asked), timeout=NODE_SECONDS)[0])
        seen = [task in ready and ray.get(task) for task in asked]
        blind = [node["NodeManagerAddress"] for node, is_seen in zip(alive, seen, strict=True) if not is_seen]
        print(json.dumps([blind, len(alive)]))
    finally:
        probe.unlink()
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
