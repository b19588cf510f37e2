"""What we use of Ray beyond its public API still exists: one test per item, so an incompatible Ray fails here first."""

from __future__ import annotations

import inspect
import subprocess
from pathlib import Path

import pytest
import ray
import ray.train

from orchestrator.execution import ray_internals
from orchestrator.execution.ray_internals import CONNECT_TIMEOUT, RAY_ENVIRONMENT, TRAIN_METRICS, UNUSED_CALLBACKS

RAY = Path(ray.__file__).parent


def is_in_source(text: str, suffixes: tuple[str, ...] = ("*.py",)) -> bool:
    """Whether a text occurs in a file of the installed Ray."""
    command = ["grep", "-rlqF", text, *(f"--include={suffix}" for suffix in suffixes), str(RAY)]
    return subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("name", [*RAY_ENVIRONMENT, TRAIN_METRICS])
def test_ray_reads_the_environment_variable(name: str) -> None:
    assert is_in_source(name)


def test_workers_read_the_connect_timeout() -> None:
    """It is one of Ray's C++ settings: their names are in its library."""
    setting = CONNECT_TIMEOUT.removeprefix("RAY_")
    libraries = [path for path in RAY.glob("_raylet*.so") if setting.encode() in path.read_bytes()]
    assert libraries


def test_train_has_the_callbacks_that_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "1")
    trainer = ray_internals.lean_trainer()(lambda: None)
    names = {type(callback).__name__ for callback in trainer._create_default_callbacks()}
    assert names
    assert not names & set(UNUSED_CALLBACKS)


def test_a_callback_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_internals, "UNUSED_CALLBACKS", (*UNUSED_CALLBACKS, "NoSuchCallback"))
    trainer = ray_internals.lean_trainer()(lambda: None)
    with pytest.raises(RuntimeError, match="has no callback NoSuchCallback"):
        trainer._create_default_callbacks()


def test_the_torch_backend_executes_functions_on_workers() -> None:
    assert list(inspect.signature(ray_internals.torch_backend().on_start).parameters) == [
        "self",
        "worker_group",
        "backend_config",
    ]


def test_private_state_lists_resources_and_draining_nodes() -> None:
    from ray._private.state import GlobalState, available_resources_per_node

    assert callable(available_resources_per_node)
    assert callable(GlobalState.get_draining_nodes)
    assert callable(GlobalState._connect_and_get_accessor)


def test_the_placement_group_table_names_the_creator() -> None:
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    fields = {field.name for field in PlacementGroupTableData.DESCRIPTOR.fields}
    assert {"creator_actor_id", "creator_actor_dead", "creator_job_id", "state", "placement_group_id"} <= fields
    assert isinstance(PlacementGroupTableData.REMOVED, int)
