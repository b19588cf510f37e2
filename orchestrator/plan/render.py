"""A plan as plan.json and as text: what will run, what is shared, what it is expected to cost. Stable byte for byte."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from rich.table import Table

from orchestrator.plan.make import Plan
from orchestrator.plan.records import BundleFacts, PlanFile, Totals, run_facts
from orchestrator.plan.runs import Bundle, Cell
from orchestrator.units import duration

WEIGHT_BYTES, CHECKPOINT_BYTES = 4, 12  # a parameter in fp32: as weights; with the optimizer's two moments
TEXT_COLUMNS = 200  # of the table: wide enough that no cell wraps
COLUMNS = ("model", "params", "images", "length", "steps", "train FLOPs", "group", "memory", "time", "children")


def naive_flops(plan: Plan) -> int:
    """Training FLOPs of the same grid where every fine-tune and probe pretrains for itself."""
    return sum(
        run.train_flops + (cell.pretrain.train_flops if run is not cell.pretrain else 0)
        for cell in plan.cells
        for run in (cell.children or (cell.pretrain,))
    )


def totals(plan: Plan, bundles: list[Bundle]) -> Totals:
    """Sums over the whole plan."""
    flops, naive = sum(run.train_flops for run in plan.runs), naive_flops(plan)
    gpu_hours = sum(run.placement.gpu_seconds for run in plan.runs) / 3600
    return Totals(
        runs=len(plan.runs),
        cells=len(plan.cells),
        bundles=len(bundles),
        train_flops=flops,
        naive_train_flops=naive,
        sharing_saves=round(naive / flops, 3) if flops else 1.0,
        gpu_hours=round(gpu_hours, 4),
        core_hours=round(sum(run.placement.core_seconds for run in plan.runs) / 3600, 4),
        cost=None if plan.price_per_gpu_hour is None else round(gpu_hours * plan.price_per_gpu_hour, 2),
        largest_memory_bytes=max((run.placement.memory_bytes for run in plan.runs), default=0),
        weights_bytes=sum(WEIGHT_BYTES * run.params for run in plan.runs if run.config.phase == "pretrain"),
        largest_checkpoint_bytes=max((CHECKPOINT_BYTES * run.params for run in plan.runs), default=0),
    )


def phase_hours(plan: Plan) -> dict[str, dict[str, float]]:
    """Expected core-hours and GPU-hours of each phase."""
    hours: dict[str, dict[str, float]] = {}
    for run in plan.runs:
        of_phase = hours.setdefault(run.config.phase, {"core_hours": 0.0, "gpu_hours": 0.0})
        of_phase["core_hours"] += run.placement.core_seconds / 3600
        of_phase["gpu_hours"] += run.placement.gpu_seconds / 3600
    return hours


def plan_file(plan: Plan, bundles: list[Bundle], datasets: dict[str, str], imports: tuple[str, ...]) -> PlanFile:
    """The content of plan.json. `datasets`: name to folder or URL, as it may be shown."""
    return PlanFile(
        study=plan.study,
        totals=totals(plan, bundles),
        device=plan.device,
        datasets=datasets,
        missing_indexes=tuple(plan.missing_indexes),
        bundles=tuple(_bundle_facts(bundle) for bundle in bundles),
        runs=tuple(run_facts(run) for run in plan.runs),
        imports=imports,
    )


def _bundle_facts(bundle: Bundle) -> BundleFacts:
    facts = BundleFacts(
        bundle_id=bundle.bundle_id,
        group=bundle.group,
        seconds=round(bundle.seconds, 1),
        cells=tuple(cell.pretrain.run_id for cell in bundle.cells),
    )
    part = {"runs": tuple(run.run_id for run in bundle.runs), "after": bundle.after}
    return facts.model_copy(update=part) if bundle.after else facts


def plan_as_text(plan: Plan, bundles: list[Bundle], done: int) -> str:
    """The plan for a person: one line per cell, then the totals. `done`: runs that have a result already."""
    table = Table(*COLUMNS, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for cell in plan.cells:
        table.add_row(*_cell_columns(cell))
    text = StringIO()
    Console(file=text, width=TEXT_COLUMNS, color_system=None, highlight=False, markup=False).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([f"study {plan.study}", "", *lines, "", *_totals_text(plan, bundles, done)])


def _cell_columns(cell: Cell) -> tuple[str, ...]:
    run, group = cell.pretrain, cell.pretrain.placement.group
    is_import = run.config.phase == "import"
    return (
        run.model_name,
        f"{run.params / 1e6:.4g}M",
        "unknown" if is_import else f"{run.config.data.size:,}",
        run.length,
        "-" if is_import else f"{run.config.steps:,}",
        "-" if is_import else f"{run.train_flops:.4g}",
        f"{group}, ZeRO {group.zero_stage}",
        f"{max(r.placement.memory_bytes for r in cell.runs) / 1e9:.3g} GB",
        duration(cell.seconds),
        str(len(cell.children)),
    )


def _totals_text(plan: Plan, bundles: list[Bundle], done: int) -> list[str]:
    sums, device = totals(plan, bundles), plan.device
    imports = sum(cell.pretrain.config.phase == "import" for cell in plan.cells)
    imported = f" and {imports} imported models" if imports else ""
    lines = [
        f"runs      {sums.runs:,} ({done:,} already done): {sums.cells - imports} pretrainings{imported} shared by "
        f"{sums.runs - sums.cells:,} fine-tunes and probes, in {sums.bundles} bundles",
        f"compute   {sums.train_flops:.4g} training FLOPs; {sums.naive_train_flops:.4g} without sharing: "
        f"sharing saves a factor of {sums.sharing_saves:g}",
        f"estimate  {sums.gpu_hours:,.4g} GPU-hours, {sums.core_hours:,.4g} core-hours; "
        f"at most {sums.largest_memory_bytes / 1e9:.3g} GB per worker",
        f"disk      {sums.weights_bytes / 1e9:.3g} GB of weights; while it runs, a checkpoint of up to "
        f"{sums.largest_checkpoint_bytes / 1e9:.3g} GB for each running training",
        f"assuming  {device.name}: {device.peak_flops:.3g} FLOP/s at {device.vit_utilisation:.0%} (ViT) and "
        f"{device.resnet_utilisation:.0%} (ResNet) utilisation, {device.step_seconds * 1000:g} ms overhead per step, "
        f"{device.memory_bytes / 1e9:.3g} GB",
    ]
    if sums.cost is not None:
        lines.append(f"price     {sums.cost:,.2f} at {plan.price_per_gpu_hour:g} per GPU-hour")
    if plan.missing_indexes:
        lines.append(f"missing   datasets without an index, planned from the study file: {', '.join(plan.missing_indexes)}")
    return lines
