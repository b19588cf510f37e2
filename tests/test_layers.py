"""Imports run one way, down the layers of docs/architecture.md; no two packages import each other; planning stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

# A package, or a module outside of a package, and its layer. Where a package has two layers, the entry of the module counts.
LAYERS: dict[str, str] = {
    **dict.fromkeys(("vitmodel.files", "vitmodel.config", "vitmodel.flops"), "L0"),
    **dict.fromkeys(("vitmodel.weights.recognise", "vitmodel.weights.header"), "L0"),  # what planning reads of a weights file
    **dict.fromkeys(
        (f"vitmodel.data.{name}" for name in ("index", "remote", "generated", "descriptions")), "L0"
    ),  # of a dataset
    **dict.fromkeys((f"vitmodel.{name}" for name in ("models", "data", "weights", "training", "inspect")), "L1"),
    **dict.fromkeys((f"orchestrator.{name}" for name in ("secrets", "units", "mlflow_client", "spec", "plan", "store")), "L2"),
    **dict.fromkeys((f"orchestrator.{name}" for name in ("results", "laws", "verdicts", "report")), "L3a"),
    **dict.fromkeys((f"orchestrator.{name}" for name in ("tracking", "monitor", "execution")), "L3b"),
    **dict.fromkeys((f"orchestrator.{name}" for name in ("prepare", "finish", "study", "doctor", "cli", "commands")), "L4"),
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
    "L3a": {"pandas", "matplotlib", "scipy", "mlflow"},  # mlflow to read from, imported where an address is given
    "L3b": {"torch", "ray", "mlflow"},
    "L4": HEAVY,
}
LAZY = {"orchestrator.mlflow_client": {"mlflow"}}  # imported inside a function, at the first use
API = ("orchestrator.laws", "orchestrator.results")  # their __init__ names what notebooks use
FILES = [path for package in ("vitmodel", "orchestrator") for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str:
    """`orchestrator.plan` of `orchestrator.plan.axes`; a module outside of a package counts as its own package."""
    return ".".join(module.split(".")[:2])


def layer_of(module: str) -> str:
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    layer = next((LAYERS[name] for name in names if name in LAYERS), None)
    assert layer, f"{module} has no layer: add its package to the table of tests/test_layers.py"
    return layer


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports_of(path: Path) -> set[str]:
    """Modules of this project that a file imports."""
    named = {name for name in imports_of(path) if name.split(".")[0] in ("vitmodel", "orchestrator")}
    return {name for name in named if name in API or (ROOT / Path(*name.split("."))).with_suffix(".py").exists()}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_down(path: Path) -> None:
    module = module_name(path)
    if path.name == "__init__.py" and module not in API:
        assert not imports_of(path), "package files hold a docstring and nothing else"
        return
    layer = layer_of(module)
    own = own_imports_of(path)
    wrong = {name for name in own if layer_of(name) not in BELOW[layer]}
    wrong |= {name for name in imports_of(path) if name.split(".")[0] in HEAVY - ALLOWED_HEAVY[layer] - LAZY.get(module, set())}
    assert not wrong, f"{module} ({layer}) may not import {sorted(wrong)}"
    if module.startswith("vitmodel"):
        assert not any(name.startswith("orchestrator") for name in own), "vitmodel does not know of studies"


def test_no_two_packages_import_each_other() -> None:
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        package = package_of(module_name(path))
        arrows.setdefault(package, set()).update(package_of(name) for name in own_imports_of(path))
    try:
        TopologicalSorter({package: below - {package} for package, below in arrows.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"packages import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", ["orchestrator.plan.make", "orchestrator.plan.render", "orchestrator.store.layout"])
def test_planning_is_light(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('ray', 'torch', 'mlflow', 'pandas') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_notebooks_read_results_only() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text()
        assert "orchestrator.results" in text or "orchestrator import" in text
        for module in ("torch", "ray", "orchestrator.execution"):
            assert f"import {module}" not in text
