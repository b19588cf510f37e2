"""Program of the tests in place of `python -m orchestrator.study`: the same command, with all runs in its own process.

without_ray.py STUDY STORAGE      (pretends that the machine has one GPU, for studies with a limit of GPU-hours)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator import study
from orchestrator.execution import launch, worker
from orchestrator.execution import session as ray
from orchestrator.plan.make import Plan
from orchestrator.plan.runs import Bundle
from orchestrator.spec.schema import Study
from orchestrator.store.layout import Store


@contextmanager
def session() -> Iterator[list[dict[str, float]]]:
    yield [{"CPU": 2.0, "GPU": 1.0}]


def work(study: Study, plan: Plan, bundles: list[Bundle], slots: object, store: Store) -> None:
    for bundle in bundles:
        worker.work({"orders": launch.make_orders(study, plan, bundle, store).model_dump_json()})


if __name__ == "__main__":
    os.environ["RAY_ADDRESS"] = "none"  # the session below states the resources
    ray.ray_session, launch.launch = session, work  # type: ignore[assignment]
    sys.exit(study.run(Path(sys.argv[1]), storage=sys.argv[2]))
