"""Views of the result rows: the errors on which claims are judged, single tasks and means over tasks."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from orchestrator import laws
from orchestrator.results import summary
from orchestrator.spec.claims import Claims
from orchestrator.verdicts.answers import View


def views(frame: pd.DataFrame, claims: Claims, ceilings: Mapping[str, str]) -> tuple[View, ...]:
    """The mean over tasks, the mean without some of them, each fine-tuned task, each probed one; without these, upstream."""
    done = rows_with_pretraining(frame)
    tuned, probed = summary.tasks(done, "finetune"), summary.tasks(done, "probe")
    result = []
    if tuned:
        averaged = tuple(task for task in claims.tasks or tuned if task in tuned)
        length = summary.finetune_length(done[done["phase"] == "finetune"])
        left_out = tuple(ceilings) if claims.leave_out is None else claims.leave_out
        remaining = tuple(task for task in averaged if task not in left_out)
        if len(averaged) > 1:
            result.append(View(name=f"mean of {len(averaged)} tasks", tasks=averaged, phase="finetune", how=length))
        if 1 < len(remaining) < len(averaged):
            without = ", ".join(task for task in averaged if task not in remaining)
            name = f"mean of {len(remaining)} tasks, without {without}"
            result.append(View(name=name, tasks=remaining, phase="finetune", how=length))
        result += [View(name=task, tasks=(task,), phase="finetune", how=length) for task in tuned]
    shots = done.loc[done["phase"] == "probe", "shots"].max() if probed else 0
    how = summary.shots_text(shots)
    result += [View(name=f"{task}, {how}", tasks=(task,), phase="probe", how=how) for task in probed]
    if not result and len(summary.pretrained(done)):
        result.append(View(name="upstream", tasks=("",), phase="pretrain", how="right after pretraining"))
    return tuple(result)


def ceilings(frame: pd.DataFrame, claims: Claims) -> dict[str, str]:
    """Fine-tuned tasks whose errors are mostly noise of the test set, with the reason."""
    done = rows_with_pretraining(frame)
    tuned = done[done["phase"] == "finetune"]
    families = (claims.challenger, claims.rival)
    errors = {
        str(task): {str(name): part["error"].to_numpy() for name, part in rows.groupby("family") if name in families}
        for task, rows in tuned.groupby("task", sort=False)
        if claims.tasks is None or task in claims.tasks
    }
    images = {
        str(task): int(rows["test_images"].max()) for task, rows in tuned.groupby("task") if rows["test_images"].notna().any()
    }
    known = {task: by_family for task, by_family in errors.items() if by_family}
    return laws.ceilings(known, {**images, **claims.test_images})


def rows_with_pretraining(frame: pd.DataFrame) -> pd.DataFrame:
    """Finished rows whose number of pretraining images is known: imported weights have no position on any axis."""
    done = summary.finished(frame)
    return done[done["dataset_size"].notna()]
