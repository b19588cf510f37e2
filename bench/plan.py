"""Seconds of commands that train nothing: a plan of 1,656 runs, and a study that does not fit the machine.

    python bench/plan.py [--repeats 5]

Measures whole processes, including imports, and for comparison `import torch` alone. They take turns; prints medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDIES = Path(__file__).parent.parent / "studies"
TOO_LARGE = "resources: {workers: 32, gpus_per_worker: 1}"


def cannot_fit(folder: Path) -> Path:
    """The quickstart with a request for 32 workers with one GPU each."""
    path = folder / "too_large.yaml"
    path.write_text(f"{(STUDIES / 'quickstart.yaml').read_text()}\n{TOO_LARGE}\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    study = [sys.executable, "-m", "orchestrator.study"]
    with tempfile.TemporaryDirectory() as folder:
        storage = ["--storage", f"{folder}/runs"]
        commands = {
            "plan of studies/scaling.yaml": ([*study, str(STUDIES / "scaling.yaml"), "--plan", *storage], 0, 3.0),
            "refusal of 32 GPUs": ([*study, str(cannot_fit(Path(folder))), *storage], 2, 5.0),
            "import torch, for comparison": ([sys.executable, "-c", "import torch"], 0, None),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.repeats):
            for name, (command, code, _) in commands.items():
                started = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                seconds[name].append(time.perf_counter() - started)
                if done.returncode != code:
                    raise SystemExit(f"{name}: exit {done.returncode}\n{done.stderr}")
    torch_seconds = statistics.median(seconds["import torch, for comparison"])
    for name, (_, _, bound) in commands.items():
        median = statistics.median(seconds[name])
        limit = f" (limit {bound:g} s)" if bound else ""
        print(f"{name:30} {median:6.2f} s{limit}, {median / torch_seconds:4.2f} x import torch")


if __name__ == "__main__":
    main()
