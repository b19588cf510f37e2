"""Creates MLflow clients: without log output or telemetry, with short timeouts for an unavailable server."""

from __future__ import annotations

import logging
import os
from typing import Any

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def mlflow_client(address: str) -> Any:
    """An MlflowClient for a server or database. Imports mlflow, which takes about two seconds."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # after the import, which sets its own level
    return MlflowClient(tracking_uri=address)
