"""Ray Train's torch backend, with two additions: gloo uses the interface that Ray uses, and workers that are told of their end
save before they go. They are told by SIGTERM, or by Ray, which drains a node before it is taken away.

Ray's workers end at once at SIGTERM. A handler can only be set in a process's main thread, and the training function
runs in another one; what a backend executes on its workers runs in the main thread.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from orchestrator.execution.capacity import draining_nodes
from orchestrator.execution.network import choose_interface
from vitmodel.training.guard import catch_termination, give_notice, has_notice

LOOK_SECONDS = 5.0  # between two looks for a drain of a worker's node; clouds leave it 30 s or more

log = logging.getLogger(__name__)


class _NoticedBackend(_TorchBackend):  # type: ignore[misc, unused-ignore]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)
        worker_group.execute(catch_termination)
        worker_group.execute(watch_for_drain)


@dataclass
class NoticedTorchConfig(TorchConfig):  # type: ignore[misc, unused-ignore]
    """The configuration that chooses this backend."""

    @property
    def backend_cls(self) -> type[_NoticedBackend]:
        return _NoticedBackend


def watch_for_drain() -> None:
    """Take a drain of this process's node as a notice, from now on and in a thread of its own. Runs in a Ray worker."""
    import ray

    node = ray.get_runtime_context().get_node_id()

    def watch() -> None:
        while not has_notice():
            try:
                if node in draining_nodes():
                    give_notice()
            except Exception as error:  # the head may be away for a moment; the next look sees the same
                log.warning("cannot look for drained nodes: %s", str(error).partition("\n")[0])
            time.sleep(LOOK_SECONDS)

    threading.Thread(target=watch, name="drain-watch", daemon=True).start()
