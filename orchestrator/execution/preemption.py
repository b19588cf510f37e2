"""Ray Train's torch backend with two additions: gloo uses Ray's network interface, and preempted workers save first.

A preemption notice is SIGTERM to a worker, or Ray draining its node. Ray's workers end at once at SIGTERM. A signal handler
can only be set in the main thread of a process, and the training function runs in another one; what a backend executes on
its workers runs in the main thread.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

from orchestrator.execution.network import choose_interface
from orchestrator.execution.ray_internals import draining_nodes, torch_backend
from vitmodel.training.preemption import handle_sigterm, is_preempted, set_preempted

INTERVAL_SECONDS = 5.0  # between two checks for a drain of a worker's node; clouds give 30 s or more

log = logging.getLogger(__name__)


class PreemptionBackend(torch_backend()):  # type: ignore[misc, unused-ignore]
    """The torch backend, whose workers save a checkpoint when they receive a preemption notice."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)
        worker_group.execute(handle_sigterm)
        worker_group.execute(watch_for_drain)


@dataclass
class PreemptionTorchConfig(TorchConfig):  # type: ignore[misc, unused-ignore]
    """The configuration that selects this backend."""

    @property
    def backend_cls(self) -> type[PreemptionBackend]:
        return PreemptionBackend


def watch_for_drain() -> None:
    """From now on, in a thread, treat a drain of this process's node as a preemption notice. Runs in a Ray worker."""
    import ray

    node = ray.get_runtime_context().get_node_id()

    def watch() -> None:
        while not is_preempted():
            try:
                if node in draining_nodes():
                    set_preempted()
            except Exception as error:  # the head may be unreachable for a moment; the next check sees the same
                log.warning("cannot list drained nodes, will try again: %s", str(error).partition("\n")[0])
            time.sleep(INTERVAL_SECONDS)

    threading.Thread(target=watch, name="drain-watch", daemon=True).start()
