"""What one study asks for: its storage, its tracker, its datasets, its webhook's variable."""

from __future__ import annotations

import os
import socket
import sqlite3
import urllib.error
import urllib.request
import uuid
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.doctor.finding import Finding, fail, ok, warn
from orchestrator.plan.datasets import look_up_datasets, said_of_missing
from orchestrator.secrets import expand_environment, redact
from orchestrator.spec.integrations import check_tracker
from orchestrator.spec.study import StudyFile
from orchestrator.store.layout import Store
from orchestrator.tracking.mlflow import tracking_uri
from vitmodel.config.base import UserError

REPLY_SECONDS = 5.0
ROOMY_BYTES = 10 * 2**30
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def storage(folder: Path) -> list[Finding]:
    """Writable, renames replace in one step, and there is room."""
    probe = folder / f".probe-{uuid.uuid4().hex[:8]}"
    other = probe.with_suffix(".new")
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"old")
        other.write_bytes(b"new")
        os.replace(other, probe)
        replaced = probe.read_bytes() == b"new" and not other.exists()
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    except OSError as error:
        return [fail(f"{folder} cannot be written: {error.strerror}", "another storage.path, or its owner and mount options")]
    finally:
        for path in (probe, other):
            _remove(path)
        if is_new and folder.is_dir():
            folder.rmdir()  # a look leaves nothing
    if not replaced:
        return [
            fail(f"{folder} does not replace a file in one step", "a mount with atomic renames (no plain object-store mount)")
        ]
    if free < ROOMY_BYTES:
        return [warn(f"{folder} has {free / 2**30:.1f} GiB left", "`vitscale plan` says what a study writes")]
    return [ok(f"{folder} can be written, renames are atomic, {free / 2**30:,.0f} GiB left")]


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder is read-only or no folder: nothing was written
        return


def tracker(setting: str, root: Path) -> list[Finding]:
    """MLflow answers in time; no file store; no plain http over a network."""
    try:
        uri = expand_environment(tracking_uri(setting, Store(root)))
        check_tracker(uri)
    except (UserError, ValueError) as error:
        return [fail(f"tracking.mlflow: {error}", "auto, sqlite:///FILE or http://127.0.0.1:PORT")]
    if uri.startswith("sqlite"):
        return [_sqlite(Path(uri.removeprefix("sqlite:///")))]
    return [_server(uri, str(redact(setting)))]


def _server(uri: str, shown: str) -> Finding:
    """A tracking server, or the database behind none."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        if scheme in DATABASE_PORTS:
            with socket.create_connection((parts.hostname or "", parts.port or DATABASE_PORTS[scheme]), timeout=REPLY_SECONDS):
                return ok(f"the database of {shown} can be reached")
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=REPLY_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        return fail(f"{shown} answers {error.code}: no MLflow, or it wants a password", "MLFLOW_TRACKING_USERNAME, _PASSWORD")
    except OSError as error:
        mend = f"mlflow server --host 127.0.0.1 --port {parts.port or 5000}; a study goes on without it, `vitscale sync` later"
        return fail(f"{shown} does not answer in {REPLY_SECONDS:g} s: {getattr(error, 'reason', error)}", mend)
    if scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return warn(f"{shown} is plain http over the network", "https, or loopback behind a tunnel")
    return ok(f"{shown} answers")


def _sqlite(path: Path) -> Finding:
    if not path.exists():
        return ok(f"{path.name} will be made")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=REPLY_SECONDS)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error as error:
        return fail(f"{path} is no database: {error}", "move it aside; `vitscale sync` writes everything anew")
    return ok(f"{path} is a database")


def datasets(file: StudyFile, root: Path) -> list[Finding]:
    """Every dataset of the study has an index that says what the study says."""
    found = []
    for name in file.study.datasets:
        alone = StudyFile(file.study.model_copy(update={"datasets": {name: file.study.datasets[name]}}), file.tree)
        try:
            facts = look_up_datasets(alone, root)[name]
        except UserError as error:
            found.append(fail(redact(str(error), file.variables), "`vitscale data verify`, `vitscale data index`"))
            continue
        where = redact(facts.root, file.variables)
        if facts.missing:
            said = said_of_missing(redact(facts.missing, file.variables), where)
            found.append(fail(f"{name}: {said}", "`vitscale data pack`; set ${env:...} variables; check the mount"))
        else:
            found.append(ok(f"{name}: {facts.train:,} training images of {facts.classes} classes, {where}"))
    return found


def webhook(file: StudyFile) -> list[Finding]:
    """Its variable is set. Nothing is posted."""
    if file.study.notify is None:
        return []
    try:
        expand_environment(file.study.notify.webhook)
    except UserError as error:
        return [fail(f"notify.webhook: {error.message}", "export it where the study is started, from a secret store")]
    return [ok("notify.webhook: its variable is set")]
