"""The sections of a study file about other services: MLflow and a webhook. They hold addresses, never secrets."""

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
    """MLflow's address. Raises ValueError for a folder: MLflow's file store loses runs when two processes write."""
    scheme = re.match(r"(\w+)(?:\+\w+)?://", value)
    if value != "auto" and not value.startswith("${env:") and (scheme is None or scheme[1] not in TRACKERS):
        allowed = ", ".join(f"{name}://" for name in TRACKERS)
        raise ValueError(
            f"invalid MLflow address {value!r}; write auto, or an address that starts with {allowed}; never a folder"
        )
    return value


def _tracker(value: str) -> str:
    if has_literal_user_info(value):
        raise ValueError("no password in a study: write ${env:NAME}, or set MLFLOW_TRACKING_USERNAME and _PASSWORD")
    return check_tracker(value)


def _webhook(value: str) -> str:
    """A webhook's address is a secret, because whoever knows it can post to it."""
    if not names_in(value):
        raise ValueError("a webhook's address is a secret: write ${env:NAME} and set the variable where the study is started")
    return value


class Tracking(Frozen):
    """MLflow."""

    mlflow: Annotated[str, AfterValidator(_tracker)] = Field(default="auto", examples=["http://127.0.0.1:5000"])
    """MLflow's address: `http(s)://`, `sqlite://` or a database, never a folder; `auto`: a sqlite file in the store."""


class Notify(Frozen):
    """A webhook for events of the study."""

    webhook: Annotated[str, AfterValidator(_webhook)] = Field(examples=['"${env:WEBHOOK}"'])
    """Address that gets a small JSON for each event; it is a secret and must be written `${env:NAME}`."""
    on: tuple[Event, ...] = Field(default=EVENTS, min_length=1)
    """Events that are posted."""
