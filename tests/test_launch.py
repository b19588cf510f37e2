"""The launcher without a cluster: the next bundle, a stopped study, the causes of runs that did not finish."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import WriteStudy
from ray.tune.search import Searcher
from records import run_result

from orchestrator.execution.fanout import Fanout
from orchestrator.execution.launch import make_orders, mark_unfinished
from orchestrator.execution.trial import trial
from orchestrator.plan.make import make_bundles, make_plan
from orchestrator.plan.runs import Bundle
from orchestrator.spec.study import read_study
from orchestrator.store.layout import Store
from orchestrator.store.records import StopRequest, as_json
from orchestrator.store.state import State
from orchestrator.store.stop import request_stop
from vitmodel.files import write_json


@pytest.fixture
def bundles(write_study: WriteStudy, tmp_path: Path) -> list[Bundle]:
    def change(content: dict) -> None:
        content["pretrain"]["sizes"], content["transfer"]["epochs"] = [128], [1]
        del content["probe"]

    plan = make_plan(read_study(write_study(change)), tmp_path)
    return make_bundles(plan.cells, {plan.cells[0].pretrain.placement.group: 1}, "run")


def fanout(bundles: list[Bundle], store: Store) -> Fanout:
    return Fanout(bundles, {bundle.bundle_id: {"orders": bundle.bundle_id} for bundle in bundles}, store)


def finish(store: Store, bundle: Bundle) -> None:
    for run in bundle.runs:
        store.run(run.run_id).path.mkdir(parents=True, exist_ok=True)
        store.run(run.run_id).finish(run_result(run.run_id))


def test_a_fine_tune_follows_its_pretraining(bundles: list[Bundle], tmp_path: Path) -> None:
    store = Store(tmp_path)
    searcher = fanout(bundles, store)
    assert [searcher.suggest(str(trial)) for trial in range(2)] == [{"orders": "0000"}, {"orders": "0001"}]
    assert searcher.suggest("2") is None, "both fine-tunes wait for their pretraining"
    finish(store, bundles[1])
    searcher.on_trial_complete("1", {"executed": 1})
    child = next(bundle for bundle in bundles if bundle.after == bundles[1].runs[0].run_id)
    assert searcher.suggest("2") == {"orders": child.bundle_id}
    assert searcher.suggest("3") is None
    finish(store, child)
    searcher.on_trial_complete("2", None, error=True)  # a trial's own outcome does not count
    assert searcher.suggest("3") is None, "one pretraining is still running"
    store.run(bundles[0].runs[0].run_id).path.mkdir(parents=True)
    store.run(bundles[0].runs[0].run_id).fail(State.DIVERGED, "loss not finite")
    searcher.on_trial_complete("0", {"executed": 1})
    assert searcher.suggest("3") == Searcher.FINISHED, "its fine-tune can never start, and Tune must not wait for it"


def test_a_resume_starts_the_open_bundles(bundles: list[Bundle], tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store, bundles[0])
    open_bundles = [bundle for bundle in bundles if bundle.runs[0].run_id != bundles[0].runs[0].run_id]
    searcher = fanout(open_bundles, store)
    assert searcher.suggest("0") == {"orders": bundles[1].bundle_id}, "pretrainings go first"
    child = next(bundle for bundle in bundles if bundle.after == bundles[0].runs[0].run_id)
    assert searcher.suggest("1") == {"orders": child.bundle_id}


def test_a_stopped_study_starts_no_group(bundles: list[Bundle], write_study: WriteStudy, tmp_path: Path) -> None:
    """Thousands of bundles may be left: each ends at once, and its runs record the reason."""
    store = Store(tmp_path)
    request_stop(store.study("tiny"), State.BUDGET, "the limit is reached")
    file = read_study(write_study())
    write_json(tmp_path / "orders.json", as_json(make_orders(file.study, make_plan(file, tmp_path), bundles[0], store)))
    assert trial({"orders": str(tmp_path / "orders.json"), "scratch": ""}) == {"executed": 0}
    mark_unfinished(bundles[0].cells, store, StopRequest(state=State.BUDGET, reason="the limit is reached"))
    failure = store.run(bundles[0].runs[0].run_id).failure()
    assert failure is not None
    assert failure.reason == "the limit is reached"


def test_an_unfinished_run_gets_a_cause(bundles: list[Bundle], tmp_path: Path) -> None:
    store = Store(tmp_path)
    children = [bundle for bundle in bundles if bundle.after]
    mark_unfinished(children[0].cells, store, None)
    assert store.run(children[0].after).state() is State.FAILED
    assert store.run(children[0].runs[0].run_id).state() is State.SKIPPED
    pretraining = next(bundle for bundle in bundles if bundle.runs[0].run_id == children[1].after)
    finish(store, pretraining)
    mark_unfinished(children[1].cells, store, None)
    assert store.run(children[1].runs[0].run_id).state() is State.FAILED
