"""Each of DeepSpeed's internals that vitmodel/training/deepspeed_internals.py depends on: a failure here names what changed."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from test_engine import MODEL, RECIPE, batches, take_steps
from torch import Tensor

from vitmodel.config.models import ModelConfig
from vitmodel.models.build import build
from vitmodel.training import deepspeed_internals as internals
from vitmodel.training.engine import (
    ensure_process_group,
    full_weights,
    import_deepspeed,
    make_engine,
    make_optimizer,
    zero_settings,
)

TOUCHED = (
    "__compatible_ops__",
    "enable_backward_allreduce",
    "get_grad_norm_direct",
    "report_ipg_memory_usage",
    "buffered_reduce_fallback",
    "dp_process_group",
    "get_global_grad_norm",
    "basic_optimizer",
    "_hp_mapping",
    "ds_tensor",
    "ds_numel",
    "fp32_partitioned_groups_flat",
    "checkpoint_event_prologue",
    "GatheredParameters",
)


@pytest.fixture(autouse=True)
def _process_group() -> None:
    ensure_process_group()


def plain_engine(stage: int) -> Any:
    """An engine with our configuration, as DeepSpeed makes it, without our changes."""
    import_deepspeed()
    module = build(MODEL, 16, 10, seed=0)
    settings = {
        "train_batch_size": 12,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_clipping": 0.5,
        "zero_optimization": zero_settings(module, stage),
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    return import_deepspeed().initialize(model=module, optimizer=make_optimizer(module, RECIPE), config=settings)[0]


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A plain engine of the stage given as parameter, after one step."""
    engine = plain_engine(request.param)
    engine.train()
    images, labels = next(batches())
    for start in range(0, 12, 4):
        engine.backward(F.cross_entropy(engine(images[start : start + 4]), labels[start : start + 4]))
        engine.step()
    yield engine
    internals.destroy_engine(engine)


def test_no_other_module_touches_these_internals() -> None:
    files = [path for folder in ("vitmodel", "orchestrator", "bench") for path in (ROOT / folder).rglob("*.py")]
    for path in files:
        text = path.read_text()
        names = [name for name in TOUCHED if name in text]
        assert path.name == "deepspeed_internals.py" or not names, f"{path} touches {names}"


def test_compatible_ops_name_the_shared_memory_op() -> None:
    import deepspeed.ops
    from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

    assert ShareMemCommBuilder.NAME == internals.SHARED_MEMORY_OP
    communication = importlib.import_module("deepspeed.comm.torch")
    assert "deepspeed.ops.__compatible_ops__.get(builder.NAME" in inspect.getsource(communication)
    internals.disable_shared_memory_op()
    assert deepspeed.ops.__compatible_ops__[internals.SHARED_MEMORY_OP] is False


@pytest.mark.parametrize("engine", [0], indirect=True)
def test_enable_backward_allreduce_decides_whether_gradients_are_reduced(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.enable_backward_allreduce is True
    calls: list[object] = []
    monkeypatch.setattr(type(engine), "allreduce_gradients", lambda *args, **_: calls.append(args))
    images, labels = next(batches())
    for is_enabled in (False, True):
        engine.enable_backward_allreduce = is_enabled
        calls.clear()
        engine.backward(F.cross_entropy(engine(images), labels))
        assert bool(calls) == is_enabled


@pytest.mark.parametrize("engine", [1, 2], indirect=True)
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("get_grad_norm_direct", ["gradients", "params", "norm_type"]),
        ("report_ipg_memory_usage", ["tag", "param_elems", "dtype"]),
        ("buffered_reduce_fallback", None),
    ],
)
def test_replaced_methods_exist(engine: Any, method: str, parameters: list[str] | None) -> None:
    signature = list(inspect.signature(getattr(engine.optimizer, method)).parameters)
    assert parameters is None or signature == parameters
    assert engine.optimizer.dp_process_group is not None


@pytest.mark.parametrize("stage", [1, 2])
def test_replaced_methods_are_called(stage: int) -> None:
    engine = plain_engine(stage)
    calls: set[str] = set()

    def recording(name: str) -> Any:
        original = getattr(engine.optimizer, name)

        def call(*args: Any, **keys: Any) -> Any:
            calls.add(name)
            return original(*args, **keys)

        return call

    names = ["get_grad_norm_direct", "report_ipg_memory_usage", "buffered_reduce_fallback"]
    for name in names:
        setattr(engine.optimizer, name, recording(name))
    take_steps(engine)
    internals.destroy_engine(engine)
    assert calls == set(names)


def test_foreach_norm_of_torch_takes_a_dtype() -> None:
    norms = torch._foreach_norm([torch.tensor([3.0, 4.0]), torch.ones(4)], 2, torch.float64)
    assert [float(norm) for norm in norms] == [5.0, 2.0]
    assert all(norm.dtype == torch.float64 for norm in norms)


def trained(stage: int, model: ModelConfig) -> tuple[list[float], dict[str, Tensor]]:
    engine = make_engine(build(model, 16, 10, seed=0), RECIPE, micro_batch=4, workers=1, zero_stage=stage)
    norms = take_steps(engine)
    weights = full_weights(engine)
    internals.destroy_engine(engine)
    return norms, weights


@pytest.mark.parametrize("width", [32, 9])  # tensors with an odd number of elements are padded
@pytest.mark.parametrize("stage", [1, 2])
def test_replaced_methods_give_deepspeeds_own_numbers(stage: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODEL.model_copy(update={"width": width, "heads": 1})
    norms, weights = trained(stage, model)
    monkeypatch.setattr("vitmodel.training.engine.skip_needless_work", lambda *_: None)
    original_norms, original_weights = trained(stage, model)
    assert norms == pytest.approx(original_norms, rel=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(value, original_weights[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("is_changed", [True, False])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_norm_of_gradients_that_are_not_finite_is_nan(stage: int, bad: float, is_changed: bool) -> None:
    engine = (
        make_engine(build(MODEL, 16, 10, seed=0), RECIPE, micro_batch=12, workers=1, zero_stage=stage)
        if is_changed
        else plain_engine(stage)
    )
    images, labels = next(batches())
    while engine.get_global_grad_norm() is None:
        engine.backward(F.cross_entropy(engine(images), labels) * bad)
        engine.step()
    norm = internals.gradient_norm(engine, torch.device("cpu"))
    assert norm is not None
    assert norm.isnan()
    internals.destroy_engine(engine)


def test_destroy_is_what_the_destructor_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `destroy_engine`, garbage collection runs no clean-up: it imports, possibly during another import."""
    from deepspeed.module_inject import auto_ep_comm

    calls: list[object] = []
    monkeypatch.setattr(auto_ep_comm, "destroy_exchanges", calls.append)
    engine = plain_engine(0)
    internals.destroy_engine(engine)
    assert len(calls) == 1
    engine.__del__()
    assert len(calls) == 1


@pytest.mark.parametrize("engine", [0, 1, 2, 3], indirect=True)
def test_basic_optimizer_is_ours_and_holds_the_state(engine: Any) -> None:
    assert isinstance(engine.basic_optimizer, torch.optim.AdamW)
    assert internals.optimizer_keys(engine) == ["exp_avg", "exp_avg_sq"]
    assert internals.optimizer_steps(engine) == 1
    assert len(engine.basic_optimizer.state) == len(internals._stepped_tensors(engine)), "no other tensor is stepped"


@pytest.mark.parametrize("engine", [0, 1, 2, 3], indirect=True)
def test_held_ranges_are_the_live_weights_and_state(engine: Any) -> None:
    """One worker holds everything: the ranges hold the full weights, and writing to them changes the weights."""
    weights = {name: value.clone() for name, value in full_weights(engine).items()}
    for name, parameter in engine.module.named_parameters():
        ranges = {held.key: held for held in internals.held_ranges(engine, parameter, ["exp_avg", "exp_avg_sq"])}
        assert ranges.keys() == {None, "exp_avg", "exp_avg_sq"}
        assert {(held.start, len(held.values)) for held in ranges.values()} == {(0, weights[name].numel())}
        assert torch.equal(ranges[None].values, weights[name].view(-1)), name
        assert bool((ranges["exp_avg_sq"].values >= 0).all())
        with torch.no_grad():
            ranges[None].values.add_(1.0)
    for name, value in full_weights(engine).items():
        assert torch.equal(value, weights[name] + 1.0), name


@pytest.mark.parametrize("engine", [1, 2], indirect=True)
def test_hp_mapping_locates_a_parameter_in_its_flat_group(engine: Any) -> None:
    for parameter in engine.module.parameters():
        mapping = parameter._hp_mapping
        assert mapping.lp_fragment_address.start == 0
        (flat,) = engine.basic_optimizer.param_groups[mapping.param_group_index]["params"]
        address = mapping.hp_fragment_address
        assert torch.equal(flat[address.start : address.start + address.numel], mapping.hp_fragment)
        assert torch.equal(mapping.hp_fragment.view(parameter.shape), parameter)


@pytest.mark.parametrize("engine", [3], indirect=True)
def test_ds_tensor_is_this_workers_part_of_a_parameter(engine: Any) -> None:
    weights = full_weights(engine)
    for name, parameter in engine.module.named_parameters():
        assert parameter.ds_numel == weights[name].numel()
        assert torch.equal(parameter.ds_tensor[: parameter.ds_numel], weights[name].view(-1))
    flat = engine.optimizer.fp32_partitioned_groups_flat
    assert sum(part.numel() for part in flat) >= sum(value.numel() for value in weights.values())


@pytest.mark.parametrize("engine", [1, 2, 3], indirect=True)
def test_loaded_state_is_what_the_forward_pass_uses(engine: Any) -> None:
    """`loading` at stage 3 depends on checkpoint_event_prologue and checkpoint_event_epilogue."""
    engine.eval()
    images = next(batches())[0]
    before = engine(images).detach().clone()
    saved = {
        name: [(held.key, held.values.clone()) for held in internals.held_ranges(engine, parameter, ["exp_avg", "exp_avg_sq"])]
        for name, parameter in engine.module.named_parameters()
    }
    with torch.no_grad():
        internals.reset_optimizer(engine, ["exp_avg", "exp_avg_sq"], steps=7)
        for factor in (0.5, 1.0):  # other weights, then those of before
            with internals.loading(engine):
                for name, parameter in engine.module.named_parameters():
                    held = internals.held_ranges(engine, parameter, ["exp_avg", "exp_avg_sq"])
                    for (_, _, values), (_, old) in zip(held, saved[name], strict=True):
                        values.copy_(old * factor)
                    weight = saved[name][0][1] * factor
                    internals.set_model_weights(engine, parameter, lambda start, count, w=weight: w[start : start + count])
            assert torch.equal(engine(images), before) == (factor == 1.0)
    assert internals.optimizer_steps(engine) == 7


def test_a_worker_that_holds_nothing_of_a_parameter_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 3 with more workers than elements: 10 elements over 8 workers are 2 each, and the last three hold none."""
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 5)
    parameter = SimpleNamespace(ds_tensor=torch.zeros(2), ds_numel=10)
    engine = SimpleNamespace(zero_optimization_stage=lambda: 3)
    internals.set_model_weights(engine, parameter, lambda start, count: pytest.fail(f"reads {count} elements from {start}"))


@pytest.mark.parametrize("engine", [0, 1, 2, 3], indirect=True)
def test_weights_are_set_from_the_optimizer(engine: Any) -> None:
    """Depends on GatheredParameters to write parameters at stage 3."""
    for parameter in engine.module.parameters():
        for held in internals.held_ranges(engine, parameter, ["exp_avg"]):
            if held.key:
                held.values.fill_(0.25)
    internals.set_weights_from_optimizer(engine, "exp_avg")
    assert all(bool((value == 0.25).all()) for value in full_weights(engine).values())
    images = next(batches())[0]
    module = build(MODEL, 16, 10, seed=0).eval()
    module.load_state_dict({name: torch.full_like(value, 0.25) for name, value in module.state_dict().items()})
    engine.eval()
    torch.testing.assert_close(engine(images), module(images))
