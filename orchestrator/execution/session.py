"""The driver's connection to Ray: a named cluster, or a private one that is started on this machine for one study."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.execution.ray_internals import CONNECT_TIMEOUT, RAY_ENVIRONMENT, TRAIN_METRICS


class NoClusterError(Exception):
    """The cluster never offered what a run needs, or no cluster could be reached."""


def on_cluster() -> bool:
    """Whether a cluster is named; otherwise Ray is started on this machine, for this study alone."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def ray_session() -> Iterator[list[dict[str, float]]]:
    """Connect to the cluster, or start one on this machine, and yield the resources of its live nodes.

    Raises NoClusterError.
    """
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not on_cluster():  # a private cluster, with a token of its own
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ.setdefault(CONNECT_TIMEOUT, "1")  # the head is on this machine; five tries of 5 s by default
    import ray

    variables = {TRAIN_METRICS: "0", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not on_cluster():
        # Without the address Ray would join any cluster that somebody has started on this machine.
        settings |= {"address": "local", "num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    try:
        ray.init(runtime_env={"env_vars": variables}, **settings)
    except Exception as error:  # Ray raises plain exceptions here
        first_line = str(error).strip().partition("\n")[0]
        where = f"cannot be reached at {os.environ['RAY_ADDRESS']}" if on_cluster() else "did not start on this machine"
        raise NoClusterError(f"Ray {where}: {first_line}; run `vitscale doctor` to find the cause") from error
    try:
        yield nodes_of_cluster()
    finally:
        ray.shutdown()


def nodes_of_cluster() -> list[dict[str, float]]:
    """The resources of each live node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
