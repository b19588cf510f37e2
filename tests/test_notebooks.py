"""The notebooks run from top to bottom against a store, and stand in the repository without outputs."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from test_results import full_store

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CURVES = Path(__file__).parents[1] / "notebooks" / "scaling_curves.ipynb"


def test_scaling_curves_draws_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_store(tmp_path)
    monkeypatch.setenv("VITSCALE_STORAGE", str(tmp_path))
    monkeypatch.setenv("VITSCALE_STUDY", "toy")
    notebook = nbformat.read(CURVES, as_version=4)
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(CURVES.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 6
    assert not any(output.output_type == "error" for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_stand_without_outputs_and_import_only_results_and_figures(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    source = "\n".join(line for cell in cells for line in cell.source.splitlines() if not line.startswith("%"))
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if node.module and node.module.startswith(("orchestrator", "vitmodel"))
    }
    assert imported <= {f"orchestrator.{room}" for room in ("results", "plots", "laws", "report")}
