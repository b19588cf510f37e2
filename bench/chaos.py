"""Fault injection: a small study on a local Ray cluster must end with the rows and losses of the undisturbed study.

    python bench/chaos.py [--minutes 10] [--seed 0] [--every 8] [--kinds worker "reads cut"]

The cluster has a head without CPUs and three nodes of one CPU each. Runs have two workers and read images from a loopback HTTP
server; MLflow runs as a server. About every `--every` seconds one fault is drawn with the seed: kill -9 of a worker, a
controller, a trial, a node (another joins), the driver (restarted) or the MLflow server (restarted); a node that is drained and
removed; SIGTERM to the driver (restarted); truncated replies for shards after the nodes' cache is deleted; a full disk (a
tmpfs, left out where mounting is not permitted). Before half of the faults the bench waits until a run makes steps, so that not
only starts are hit. If the target of a fault does not exist yet, the bench waits a few seconds for it. A fault that cannot be
injected (no target, the process has ended, permission denied) is counted as not injected, and another is drawn. A study that
ends before the time is over is started again in an empty storage.

Prints how often each fault was and was not injected. Exit code 1 if a row or a loss is lost or different, or nothing was hit.
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

from chaosscene import FAULTS, Scene, set_up, tear_down

from orchestrator import results
from orchestrator.store.layout import Store

TARGET_SECONDS = 5.0  # how long to wait for the target of a fault to exist
TRAINING_SECONDS = 15.0  # how long to wait for a run to make steps before a fault
REDRAW_SECONDS = 1.0  # from a fault that was not injected to the next one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=8, help="mean seconds between two faults")
    parser.add_argument(
        "--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="only these faults (default: all)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vsc", dir="/tmp") as folder:
        scene = set_up(Path(folder))
        try:
            kinds = tuple(kind for kind in options.kinds if scene.is_small or kind != "disk full")
            return play(scene, Faults(options.seed, options.every, kinds), options.minutes)
        finally:
            tear_down(scene)


class Faults:
    """Draws faults with a seed, injects them, and counts those that were injected and those that were not."""

    def __init__(self, seed: int, every: float, kinds: tuple[str, ...]) -> None:
        self._draw, self._every, self._kinds = random.Random(seed), every, kinds
        self.injected, self.not_injected = Counter[str](), Counter[str]()
        self.end = math.inf
        self._next = 0.0

    def inject(self, scene: Scene) -> None:
        """One fault, if it is time for one. A fault that cannot be injected never ends the bench."""
        if not self._next <= time.monotonic() <= self.end:
            return
        if self._draw.random() < 0.5:
            scene.await_training(TRAINING_SECONDS)
        (name,) = self._draw.choices(self._kinds, [FAULTS[kind][0] for kind in self._kinds])
        if reason := self._attempt(name, scene):
            self.not_injected[name] += 1
            self._next = time.monotonic() + REDRAW_SECONDS
        else:
            self.injected[name] += 1
            self._next = time.monotonic() + self._draw.expovariate(1 / self._every)
        print(f"{time.strftime('%H:%M:%S')} {name}{reason and f': not injected: {reason}'}", flush=True)

    def _attempt(self, name: str, scene: Scene) -> str:
        """Inject a fault; returns why that was not possible, or an empty text."""
        deadline = time.monotonic() + TARGET_SECONDS
        try:
            while not FAULTS[name][1](scene, self._draw):
                if time.monotonic() > deadline or not scene.is_driven:
                    return "no target"
                time.sleep(0.1)
        except Exception as error:  # psutil's, the system's, and Ray's cluster fails with AssertionError and KeyError, too
            return f"{type(error).__name__}: {error}"
        return ""

    def table(self) -> str:
        rows = [f"{name:12} {self.injected[name]:8} {self.not_injected[name]:12}" for name in FAULTS]
        return "\n".join([f"{'fault':12} injected not injected", *rows])


def play(scene: Scene, faults: Faults, minutes: float) -> int:
    """The undisturbed study, then studies with faults until the time is over. Prints the outcome; returns the exit code."""
    began = time.monotonic()
    finish(scene, lambda: None)
    expected, undisturbed_seconds = outcome(scene), time.monotonic() - began
    print(f"undisturbed: {len(expected)} runs in {undisturbed_seconds:.0f} s", flush=True)
    rounds = different = attempts = restarts = 0
    began = time.monotonic()
    faults.end = began + 60 * minutes
    while time.monotonic() < faults.end:
        empty(scene.storage)
        restarts += finish(scene, lambda: faults.inject(scene))
        actual = outcome(scene)
        wrong = [run for run in expected if actual.get(run) != expected[run]]
        rounds, different = rounds + 1, different + len(wrong)
        attempts += int(results.collect(scene.storage, "chaos")["attempts"].sum())
        for run in wrong:
            print(difference(expected[run], actual.get(run)))
        print(f"study {rounds}: {len(actual)} runs, {len(wrong)} different or lost {wrong[:4]}", flush=True)
    seconds = time.monotonic() - began
    print(f"\n{faults.table()}")
    injected, not_injected = faults.injected.total(), faults.not_injected.total()
    print(f"{injected} faults injected ({not_injected} not injected) in {seconds:.0f} s, {rounds} studies")
    print(f"{different} rows or curves different or lost")
    print(f"{rounds * len(expected)} runs took {attempts} attempts; the driver failed and was restarted {restarts} times")
    print(
        f"wall-clock {seconds / rounds:.0f} s per study, {seconds / rounds / undisturbed_seconds:.1f} x the undisturbed study"
    )
    if not injected:
        print("error: no fault was injected, so nothing was tested", file=sys.stderr)
    return int(different > 0 or not injected)


def finish(scene: Scene, meanwhile: Callable[[], None]) -> int:
    """Run the study until it succeeds, restarting a driver that fails. Returns how often one failed."""
    restarts = 0
    scene.start_driver()
    while True:
        assert scene.driver is not None
        if (code := scene.driver.poll()) == 0:
            return restarts
        if code is not None:
            print(f"{time.strftime('%H:%M:%S')} the driver exited with code {code}: {last_line(scene)}", flush=True)
            restarts += 1
            scene.start_driver()
        meanwhile()
        time.sleep(0.2)


def last_line(scene: Scene) -> str:
    return next((line for line in reversed((scene.folder / "driver.log").read_text().splitlines()) if line.strip()), "")


def outcome(scene: Scene) -> dict[str, str]:
    """Every run's row and losses as JSON, by run id."""
    store = Store(scene.storage)
    rows = results.outcomes(results.collect(scene.storage, "chaos")).set_index("run_id")
    curves = {run: [(e["step"], e["train/loss"]) for e in store.run(run).metrics() if "train/loss" in e] for run in rows.index}
    return {run: json.dumps([rows.loc[run].to_dict(), curves[run]], default=str) for run in rows.index}


def difference(expected: str, actual: str | None) -> str:
    """Where the outcomes of a run differ."""
    if actual is None:
        return "  no row"
    (row, curve), (actual_row, actual_curve) = json.loads(expected), json.loads(actual)
    fields = [f"{name} {row[name]} {actual_row.get(name)}" for name in row if row[name] != actual_row.get(name)]
    missing, unexpected = ([e for e in a if e not in b][:3] for a, b in ((curve, actual_curve), (actual_curve, curve)))
    return f"  row {fields}; of {len(curve)} losses missing {missing}, unexpected {unexpected}"


def empty(storage: Path) -> None:
    for name in ("runs", "studies", "ray"):
        subprocess.run(["rm", "-rf", str(storage / name)], check=True)


if __name__ == "__main__":
    sys.exit(main())
