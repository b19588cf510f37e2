"""Ray Train's torch backend, with two additions: gloo uses the interface that Ray uses, and workers take SIGTERM as a notice
and save before they go.

Ray's workers end at once at SIGTERM. A handler can only be set in a process's main thread, and the training function
runs in another one; what a backend executes on its workers runs in the main thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from orchestrator.running.interfaces import choose_interface
from vitmodel.training.guard import catch_termination


class _NoticedBackend(_TorchBackend):  # type: ignore[misc, unused-ignore]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)
        worker_group.execute(catch_termination)


@dataclass
class NoticedTorchConfig(TorchConfig):  # type: ignore[misc, unused-ignore]
    """The configuration that chooses this backend."""

    @property
    def backend_cls(self) -> type[_NoticedBackend]:
        return _NoticedBackend
