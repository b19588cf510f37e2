"""`resources.bundle: run`: runs that start from a pretraining become trials of their own as soon as it is done.

A Tune searcher that proposes no hyperparameters: it returns bundles in the given order, each once the pretraining that it
waits for has a result. Its state is in the store, so nothing of it is saved or restored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.search import Searcher

from orchestrator.execution.trial import TrialConfig
from orchestrator.plan.runs import Bundle
from orchestrator.store.layout import Store
from orchestrator.store.state import State


class Fanout(Searcher):  # type: ignore[misc, unused-ignore]
    """Bundles as trials: `configs` has the trial's configuration of each bundle_id."""

    def __init__(self, bundles: list[Bundle], configs: Mapping[str, TrialConfig], store: Store) -> None:
        super().__init__()
        self._waiting, self._running = list(bundles), dict[str, Bundle]()
        self._configs, self._store = configs, store
        self._done = {bundle.after for bundle in bundles if bundle.after and self._is_done(bundle.after)}

    def suggest(self, trial_id: str) -> TrialConfig | str | None:
        """The next bundle's configuration; None while all that is left waits; FINISHED when nothing is left.

        Tune asks again every tenth of a second while trials run. Without a running trial it would wait silently forever, so
        bundles that can never start are dropped here; the launcher records the reason in the store.
        """
        expected = {run.run_id for bundle in (*self._waiting, *self._running.values()) for run in bundle.runs}
        self._waiting = [b for b in self._waiting if not b.after or b.after in self._done or b.after in expected]
        if not self._waiting:
            return str(Searcher.FINISHED)
        for bundle in self._waiting:
            if not bundle.after or bundle.after in self._done:
                self._waiting.remove(bundle)
                self._running[trial_id] = bundle
                return self._configs[bundle.bundle_id]
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Read from the store which runs of the trial's bundle are done, whatever the trial reports."""
        bundle = self._running.pop(trial_id)
        self._done |= {run.run_id for run in bundle.runs if self._is_done(run.run_id)}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """There is nothing to search for."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a study resumes from its store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""

    def _is_done(self, run_id: str) -> bool:
        return self._store.run(run_id).state() is State.DONE
