"""The sections of a study about what it tells others: MLflow and a webhook. Addresses, never secrets."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from orchestrator.secrets import has_literal_user_info, names_in
from vitmodel.config.base import Frozen

Event = Literal["done", "failed", "stalled", "budget"]
EVENTS: tuple[Event, ...] = ("done", "failed", "stalled", "budget")
TRACKERS = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")


def check_tracker(value: str) -> str:
    """MLflow's address. Its file store loses runs when two processes write, and newer releases refuse it: ValueError."""
    scheme = re.match(r"(\w+)(?:\+\w+)?://", value)
    if value != "auto" and not value.startswith("${env:") and (scheme is None or scheme[1] not in TRACKERS):
        raise ValueError(f"MLflow's address is auto, or one of {', '.join(f'{name}://' for name in TRACKERS)}; never a folder")
    return value


def _tracker(value: str) -> str:
    if has_literal_user_info(value):
        raise ValueError("no password in a study: write ${env:NAME}, or set MLFLOW_TRACKING_USERNAME and _PASSWORD")
    return check_tracker(value)


def _webhook(value: str) -> str:
    """Whoever knows a webhook's address can post to it: it is a secret."""
    if not names_in(value):
        raise ValueError("a webhook's address is a secret: write ${env:NAME} and set the variable where the study is started")
    return value


class Tracking(Frozen):
    """MLflow's address; `auto` is a sqlite file in the storage folder."""

    mlflow: Annotated[str, AfterValidator(_tracker)] = "auto"


class Notify(Frozen):
    """Where events of the study are posted to, and which."""

    webhook: Annotated[str, AfterValidator(_webhook)]
    on: tuple[Event, ...] = Field(default=EVENTS, min_length=1)
