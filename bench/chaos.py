"""Chaos: a small study on a local Ray cluster, struck at random, must end with every row and every loss of the unbroken one.

    python bench/chaos.py [--minutes 10] [--seed 0] [--every 8] [--kinds worker "reads cut"]

A head without CPUs and three nodes of one CPU each; runs of two workers; images read through a loopback HTTP server; MLflow as
a server. About every `--every` seconds one thing is done, drawn with the seed: kill -9 of a worker, a controller, a trial, a
node (another joins), the driver (the same command again) or the MLflow server (it comes back), a node drained before it goes,
SIGTERM to the driver, replies for shards cut short
after the node's copies are thrown away, the storage filled to the last byte (a tmpfs; left out, and said, where mounting is not
permitted). Every second time a while is waited for steps to be made, so that not only starts are struck. What is drawn and is
not there at the moment is waited for, too, then another is drawn; only what was really struck is counted. A study that ends
before the time is over is begun again in an empty storage. Exit code 1 where anything is lost or different.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaosscene import FAULTS, Scene, set_up, tear_down

from orchestrator import results
from orchestrator.store.layout import Store

PATIENCE_SECONDS = 5.0  # how long one waits for what was drawn to be there
TRAINING_SECONDS = 15.0  # how long, every second time, for a training to make steps before it is struck


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=8, help="mean seconds between two faults")
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="only these (all)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vsc", dir="/tmp") as folder:
        scene = set_up(Path(folder))
        try:
            return play(scene, Faults(options.seed, options.every, tuple(options.kinds)), options.minutes)
        finally:
            tear_down(scene)


class Faults:
    """When what is struck: drawn with a seed; and how often each was."""

    def __init__(self, seed: int, every: float, kinds: tuple[str, ...]) -> None:
        self._draw, self._every, self._kinds = random.Random(seed), every, kinds
        self.struck, self.over = Counter[str](), math.inf
        self._next = 0.0

    def strike(self, scene: Scene) -> None:
        """One fault, where its time has come and something is there to be struck."""
        if time.monotonic() < self._next or time.monotonic() > self.over:
            return
        if self._draw.random() < 0.5:
            scene.await_training(TRAINING_SECONDS)
        (name,) = self._draw.choices(self._kinds, [FAULTS[kind][0] for kind in self._kinds])
        patience = time.monotonic() + PATIENCE_SECONDS
        while not (hit := FAULTS[name][1](scene, self._draw)) and time.monotonic() < patience and scene.is_driven:
            time.sleep(0.1)
        if hit:
            self.struck[name] += 1
            print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
            self._next = time.monotonic() + self._draw.expovariate(1 / self._every)


def play(scene: Scene, faults: Faults, minutes: float) -> int:
    """The unbroken study, then broken ones until the time is over; prints what happened; 1 where anything differs."""
    began = time.monotonic()
    finish(scene, lambda: None)
    expected, unbroken_seconds = taken(scene), time.monotonic() - began
    print(f"unbroken: {len(expected)} runs in {unbroken_seconds:.0f} s", flush=True)
    rounds = different = attempts = again = 0
    broken = time.monotonic()
    faults.over = broken + 60 * minutes
    while time.monotonic() < faults.over:
        empty(scene.storage)
        again += finish(scene, lambda: faults.strike(scene))
        found = taken(scene)
        wrong = [run for run in expected if found.get(run) != expected[run]]
        rounds, different = rounds + 1, different + len(wrong)
        attempts += results.collect(scene.storage, "chaos")["attempts"].sum()
        for run in wrong:
            print(difference(expected[run], found.get(run)))
        print(f"study {rounds}: {len(found)} runs, {len(wrong)} different or lost {wrong[:4]}", flush=True)
    seconds = time.monotonic() - broken
    print(f"\n{'fault':12} times\n" + "\n".join(f"{name:12} {faults.struck[name]:5}" for name in FAULTS))
    print(f"{faults.struck.total()} faults in {seconds:.0f} s, {rounds} studies; {different} rows or curves different or lost")
    print(f"{rounds * len(expected)} runs took {attempts} attempts; the command ended too early by itself {again} times")
    print(f"wall-clock {seconds / rounds:.0f} s a study, {seconds / rounds / unbroken_seconds:.1f} times the unbroken one")
    return int(different > 0)


def finish(scene: Scene, meanwhile: Callable[[], None]) -> int:
    """The study to its end: the same command again as often as it takes. How often it ended by itself before all was done."""
    again = 0
    scene.start_driver()
    while True:
        assert scene.driver is not None
        if (code := scene.driver.poll()) == 0:
            return again
        if code is not None:
            print(f"{time.strftime('%H:%M:%S')} the driver ended with {code}: {last_line(scene)}", flush=True)
            again += 1
            scene.start_driver()
        meanwhile()
        time.sleep(0.2)


def last_line(scene: Scene) -> str:
    return next((line for line in reversed((scene.folder / "driver.log").read_text().splitlines()) if line.strip()), "")


def taken(scene: Scene) -> dict[str, Any]:
    """Every row's outcome and every loss, by run."""
    store = Store(scene.storage)
    rows = results.outcomes(results.collect(scene.storage, "chaos")).set_index("run_id")
    curves = {run: [(e["step"], e["train/loss"]) for e in store.run(run).metrics() if "train/loss" in e] for run in rows.index}
    return {run: json.dumps([rows.loc[run].to_dict(), curves[run]], default=str) for run in rows.index}


def difference(expected: str, found: str | None) -> str:
    """Where two taken runs differ."""
    if found is None:
        return "  no row"
    (row, curve), (its_row, its_curve) = json.loads(expected), json.loads(found)
    fields = [f"{name} {row[name]} {its_row.get(name)}" for name in row if row[name] != its_row.get(name)]
    missing, other = ([e for e in a if e not in b][:3] for a, b in ((curve, its_curve), (its_curve, curve)))
    return f"  row {fields}; of {len(curve)} losses expected and not there {missing}, there and not expected {other}"


def empty(storage: Path) -> None:
    for name in ("runs", "studies", "ray"):
        subprocess.run(["rm", "-rf", str(storage / name)], check=True)


if __name__ == "__main__":
    sys.exit(main())
