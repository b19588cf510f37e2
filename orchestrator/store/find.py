"""A run's weights by what a person calls them: a file, a run_id, or the first letters of one that is unique in the store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from orchestrator.store.layout import RunFolder, Store
from vitmodel.config.base import UserError
from vitmodel.config.models import ModelConfig
from vitmodel.files import read_json
from vitmodel.weights.header import WEIGHTS_FILE


@dataclass(frozen=True, kw_only=True)
class FoundWeights:
    """A file of weights; of a run, also its model and its configuration as the store has it."""

    path: Path
    model: ModelConfig | None = None
    config: dict[str, Any] | None = None


def find_weights(name: str, store: Store) -> FoundWeights:
    """The weights of a file or a run. Raises UserError where there are none, or several runs begin like this."""
    if Path(name).exists():
        return FoundWeights(path=Path(name))
    run = find_run(name, store)
    config = (read_json(run.path / "config.json") or {}).get("config")
    if not (run.path / WEIGHTS_FILE).is_file() or config is None:
        raise UserError(
            f"{run.run_id} left no weights ({run.state()}): name a finished pretraining or import", file=str(store.root)
        )
    adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
    return FoundWeights(path=run.path / WEIGHTS_FILE, model=adapter.validate_json(json.dumps(config["model"])), config=config)


def find_run(name: str, store: Store) -> RunFolder:
    """The one run whose run_id begins with `name`. Raises UserError."""
    known = sorted(path.name for path in store.root.glob("runs/*") if path.is_dir())
    found = [run_id for run_id in known if run_id == name] or [run_id for run_id in known if run_id.startswith(name)]
    if len(found) == 1:
        return store.run(found[0])
    if found:
        raise UserError(f"{len(found)} runs begin with {name!r}", file=str(store.root), allowed=", ".join(found[:8]))
    pretrains = [run_id for run_id in known if (store.run(run_id).path / WEIGHTS_FILE).is_file()]
    allowed = ", ".join(pretrains[:8]) or "none has weights yet"
    raise UserError(f"no file and no run is called {name!r}", file=str(store.root), allowed=allowed)
