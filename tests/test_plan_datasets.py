"""The datasets of a plan: counts from the study or from the index, contradictions, and stores that answer slowly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, WriteStudy

from orchestrator.plan.datasets import look_up_datasets
from orchestrator.plan.make import make_plan
from orchestrator.spec.study import read_study
from vitmodel.config.base import UserError
from vitmodel.data.generated import DigitsConfig, FractalConfig
from vitmodel.data.remote import RetryPolicy
from vitmodel.data.shards import pack

SHORT = RetryPolicy(attempts=2, timeout_seconds=0.5, first_wait_seconds=0.05)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset with a test split."""
    root = tmp_path_factory.mktemp("packed") / "digits"
    pack(DigitsConfig(generate="digits", image_size=16), root, processes=1)
    return root


@contextmanager
def serving(root: Path, delay: Callable[[int], float]) -> Iterator[tuple[str, list[str]]]:
    """A server on loopback that waits `delay(number)` seconds before each reply: its address and the paths requested."""
    requests: list[str] = []
    released = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(root))

        def do_GET(self) -> None:
            requests.append(self.path)
            released.wait(delay(len(requests)))
            if not released.is_set():
                super().do_GET()

        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        released.set()
        server.shutdown()
        server.server_close()


def with_digits(write_study: WriteStudy, **keys: Any) -> Path:
    """The tiny study on a dataset with these keys."""
    return write_study(lambda content: content["datasets"].update(digits=keys))


def test_a_remote_index_is_read_once(digits: Path, tmp_path: Path, write_study: WriteStudy) -> None:
    """A second request would be answered too late."""
    with serving(digits, lambda number: 0.0 if number == 1 else 30.0) as (url, requests):
        study = read_study(with_digits(write_study, url=url, train=1074, classes=10))
        start = time.monotonic()
        facts = look_up_datasets(study, tmp_path, SHORT)["digits"]
    assert requests == ["/index.json"]
    assert (facts.missing, facts.train) == ("", 1074)
    assert time.monotonic() - start < 5


def test_a_store_that_does_not_answer_delays_a_plan_by_its_retry_policy(
    digits: Path, tmp_path: Path, write_study: WriteStudy
) -> None:
    with serving(digits, lambda number: 30.0) as (url, requests):
        study = read_study(with_digits(write_study, url=url, train=1074, classes=10))
        start = time.monotonic()
        facts = look_up_datasets(study, tmp_path, SHORT)["digits"]
        assert time.monotonic() - start < 2 * SHORT.attempts * SHORT.timeout_seconds + 2
    assert len(requests) == SHORT.attempts
    assert facts.missing.startswith("cannot be read: ")


def test_the_index_states_what_the_study_leaves_out(digits: Path, tmp_path: Path, write_study: WriteStudy) -> None:
    """The same runs, whether the counts are stated or not."""
    stated = read_study(with_digits(write_study, url=str(digits), train=1074, classes=10, eval_split="test"))
    omitted = read_study(with_digits(write_study, url=str(digits)))
    assert make_plan(stated, tmp_path).cells == make_plan(omitted, tmp_path).cells
    facts = look_up_datasets(omitted, tmp_path)["digits"]
    assert (facts.train, facts.classes, facts.eval_split) == (1074, 10, "test")


def test_the_split_is_the_one_that_the_index_has(tmp_path: Path, write_study: WriteStudy) -> None:
    pack(FractalConfig(generate="fractals", classes=4, train=64, val=16, image_size=16, points=64), tmp_path / "f", processes=1)
    study = read_study(with_digits(write_study, url=str(tmp_path / "f")))
    facts = look_up_datasets(study, tmp_path)["digits"]
    assert (facts.train, facts.classes, facts.eval_split) == (64, 4, "val")


@pytest.mark.parametrize(
    ("keys", "messages"),
    [
        ({"train": 1000}, ["datasets.digits.train: the index has 1074 training images, not 1000"]),
        ({"classes": 9}, ["datasets.digits.classes: the index has 10 classes, not 9"]),
        (
            {"train": 1, "classes": 2, "eval_split": "val"},
            [
                "datasets.digits.train: the index has 1074 training images, not 1",
                "datasets.digits.classes: the index has 10 classes, not 2",
                "datasets.digits.eval_split: the index has no split val (allowed: train, test)",
            ],
        ),
    ],
)
def test_contradictions_are_errors(
    keys: dict[str, Any], messages: list[str], digits: Path, tmp_path: Path, write_study: WriteStudy
) -> None:
    path = with_digits(write_study, url=str(digits), **keys)
    with pytest.raises(UserError) as caught:
        look_up_datasets(read_study(path), tmp_path)
    assert [str(error).partition(": ")[2].partition(" (allowed: 1")[0] for error in caught.value.errors] == messages
    assert all(error.line for error in caught.value.errors)


@pytest.mark.parametrize(
    ("keys", "needed"), [({}, "train and classes"), ({"train": 5}, "classes"), ({"classes": 5}, "train")], ids=str
)
def test_without_an_index_the_missing_counts_are_named(
    keys: dict[str, int], needed: str, tmp_path: Path, write_study: WriteStudy
) -> None:
    path = with_digits(write_study, url="/nowhere/digits", **keys)
    with pytest.raises(UserError) as caught:
        look_up_datasets(read_study(path), tmp_path)
    assert f"datasets.digits: no index.json in /nowhere/digits; state {needed}" in str(caught.value)
    assert caught.value.line
    assert caught.value.example == "digits: {url: /nowhere/digits, train: 1281167, classes: 1000}"


def test_mistakes_of_all_datasets_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(TINY.replace("datasets:\n", "datasets:\n  a: {url: /nowhere}\n  b: {train: 5, classes: 2}\n"))
    with pytest.raises(UserError) as caught:
        look_up_datasets(read_study(path), tmp_path)
    assert [(error.line, error.field) for error in caught.value.errors] == [(3, "datasets.a"), (4, "datasets.b")]
