"""Find a run or its weights by name: a file, a run id, or the first characters of a run id that is unique in the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.layout import RunFolder, Store
from vitmodel.config.base import UserError
from vitmodel.config.models import ModelConfig
from vitmodel.config.run import RunConfig
from vitmodel.weights.header import WEIGHTS_FILE

LISTED = 8  # run ids that an error lists


@dataclass(frozen=True, kw_only=True)
class FoundWeights:
    """A file of weights; for a run's weights, also its configuration."""

    path: Path
    config: RunConfig | None = None

    @property
    def model(self) -> ModelConfig | None:
        return self.config.model if self.config else None


def find_weights(name: str, store: Store) -> FoundWeights:
    """The weights of a file or a run. Raises UserError where there are none, or where several run ids begin with `name`."""
    if Path(name).exists():
        return FoundWeights(path=Path(name))
    run = find_run(name, store)
    record = run.record()
    if not (run.path / WEIGHTS_FILE).is_file() or record is None:
        raise UserError(
            f"{run.run_id} has no weights (state {run.state()}); name a finished pretraining or import", file=str(store.root)
        )
    return FoundWeights(path=run.path / WEIGHTS_FILE, config=record.config)


def find_run(name: str, store: Store) -> RunFolder:
    """The one run whose run id begins with `name`. Raises UserError."""
    known = sorted(path.name for path in store.root.glob("runs/*") if path.is_dir())
    matches = [run_id for run_id in known if run_id == name] or [run_id for run_id in known if run_id.startswith(name)]
    if len(matches) == 1:
        return store.run(matches[0])
    if matches:
        raise UserError(
            f"{len(matches)} run ids begin with {name!r}", file=str(store.root), allowed=", ".join(matches[:LISTED])
        )
    with_weights = [run_id for run_id in known if (store.run(run_id).path / WEIGHTS_FILE).is_file()]
    listed = ", ".join((with_weights or known)[:LISTED]) or "the store has no run yet"
    raise UserError(f"no file or run {name!r}", file=str(store.root), allowed=listed)
