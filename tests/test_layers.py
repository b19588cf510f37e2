"""Imports run one way, down the layers of the design; planning stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# Module (or package) and its layer. A module may import modules of its own layer and of those listed as below it.
LAYERS: dict[str, str] = {
    "vitmodel.allocator": "L0",
    "vitmodel.config": "L0",
    "vitmodel.variants": "L0",
    "vitmodel.grid": "L0",
    "vitmodel.convolutions": "L0",
    "vitmodel.encoders": "L0",
    "vitmodel.objectives": "L0",
    "vitmodel.flops": "L0",
    "vitmodel.hyperrule": "L0",
    "vitmodel.schedule": "L0",
    "vitmodel.recipes": "L0",
    "vitmodel.recognise": "L0",
    "vitmodel.weightfile": "L0",
    "vitmodel.data.index": "L0",
    "vitmodel.data.remote": "L0",
    "vitmodel.data.generated": "L0",
    "vitmodel.data.descriptions": "L0",
    "vitmodel.models": "L1",
    "vitmodel.data": "L1",
    "vitmodel.training": "L1",
    "vitmodel.inspect": "L1",
    "orchestrator.studyfile": "L2",
    "orchestrator.spec": "L2",
    "orchestrator.fingerprint": "L2",
    "orchestrator.planning": "L2",
    "orchestrator.plan": "L2",
    "orchestrator.budget": "L2",
    "orchestrator.store": "L2",
    "orchestrator.records": "L2",
    "orchestrator.secrets": "L2",
    "orchestrator.rows": "L3a",
    "orchestrator.results": "L3a",
    "orchestrator.scaling": "L3a",
    "orchestrator.laws": "L3a",
    "orchestrator.verdicts": "L3a",
    "orchestrator.plots": "L3a",
    "orchestrator.reporting": "L3a",
    "orchestrator.report": "L3a",
    "orchestrator.running": "L3b",
    "orchestrator.launch": "L3b",
    "orchestrator.worker": "L3b",
    "orchestrator.following": "L3b",
    "orchestrator.tracking": "L3b",
    "orchestrator.prepare": "L4",
    "orchestrator.finish": "L4",
    "orchestrator.study": "L4",
    "orchestrator.checks": "L4",
    "orchestrator.doctor": "L4",
    "orchestrator.cli": "L4",
    "orchestrator.commands": "L4",
}
BELOW = {
    "L0": {"L0"},
    "L1": {"L0", "L1"},
    "L2": {"L0", "L2"},
    "L3a": {"L0", "L2", "L3a"},
    "L3b": {"L0", "L1", "L2", "L3b"},
    "L4": {"L0", "L1", "L2", "L3a", "L3b", "L4"},
}
HEAVY = {"torch", "ray", "mlflow", "pandas", "deepspeed", "webdataset", "matplotlib", "scipy"}
ALLOWED_HEAVY = {
    "L0": set(),
    "L1": {"torch", "deepspeed", "webdataset", "scipy"},
    "L2": set(),
    "L3a": {"pandas", "matplotlib", "scipy", "mlflow"},  # mlflow to read from, imported where an address is asked
    "L3b": {"torch", "ray", "mlflow"},
    "L4": HEAVY,
}
FILES = [path for package in ("vitmodel", "orchestrator") for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def layer_of(module: str) -> str:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in LAYERS:
            return LAYERS[name]
    raise AssertionError(f"{module} has no layer: add it to the table of tests/test_layers.py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_down(path: Path) -> None:
    module = module_name(path)
    if path.name == "__init__.py":
        assert not imports_of(path), "package files hold a docstring and nothing else"
        return
    layer = layer_of(module)
    own = {m for m in imports_of(path) if m.split(".")[0] in ("vitmodel", "orchestrator")}
    modules = {m for m in own if (ROOT / Path(*m.split("."))).with_suffix(".py").exists()}
    wrong = {m for m in modules if layer_of(m) not in BELOW[layer]}
    wrong |= {m for m in imports_of(path) if m.split(".")[0] in HEAVY - ALLOWED_HEAVY[layer]}
    assert not wrong, f"{module} ({layer}) may not import {sorted(wrong)}"
    if module.startswith("vitmodel"):
        assert not any(m.startswith("orchestrator") for m in own), "vitmodel never hears of studies"


@pytest.mark.parametrize("module", ["orchestrator.plan", "orchestrator.planning.planview", "orchestrator.store"])
def test_planning_is_light(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('ray', 'torch', 'mlflow', 'pandas') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_notebooks_read_results_only() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text()
        assert "orchestrator.results" in text
        for module in ("torch", "ray", "orchestrator.launch", "orchestrator.worker"):
            assert f"import {module}" not in text
