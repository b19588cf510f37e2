"""Checks of what one study needs: storage folder, MLflow, datasets, the variable of its webhook."""

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

from orchestrator.doctor.finding import Finding, fail, ok, reason, warn
from orchestrator.plan.datasets import describe_missing, look_up_datasets
from orchestrator.secrets import expand_environment, names_in, redact
from orchestrator.spec.integrations import check_tracker
from orchestrator.spec.schema import ExternalData
from orchestrator.spec.study import StudyFile
from orchestrator.store.layout import Store
from orchestrator.tracking.mlflow import tracking_uri
from vitmodel.config.base import UserError
from vitmodel.data.index import INDEX_FILE

REPLY_SECONDS = 5.0
LOW_BYTES = 10 * 2**30  # with less free space there is a warning
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def storage(folder: Path) -> list[Finding]:
    """The folder can be written, renames are atomic, and there is free space."""
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
        fix = "choose another storage.path, or correct the owner and the mount options of the folder"
        return [fail(f"{folder} cannot be written: {error.strerror}", fix)]
    finally:
        for path in (probe, other):
            _remove(path)
        if is_new and folder.is_dir():
            folder.rmdir()  # a check leaves nothing behind
    if not replaced:
        fix = "choose a file system with atomic renames; a plainly mounted bucket has none"
        return [fail(f"{folder}: renames are not atomic", fix)]
    if free < LOW_BYTES:
        fix = "free some space; `vitscale plan` estimates what a study writes (`disk`)"
        return [warn(f"{folder} has {free / 2**30:.1f} GiB of free space", fix)]
    return [ok(f"{folder} can be written, renames are atomic, {free / 2**30:,.0f} GiB of free space")]


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # read-only, or not a folder: nothing was written
        return


def tracker(setting: str, root: Path) -> list[Finding]:
    """MLflow answers in time; it is not a file store and not plain http over a network."""
    try:
        uri = expand_environment(tracking_uri(setting, Store(root)))
        check_tracker(uri)
    except (UserError, ValueError) as error:
        return [fail(f"tracking.mlflow: {error}", "set it to auto, sqlite:///FILE or http://127.0.0.1:PORT")]
    if uri.startswith("sqlite"):
        return [_sqlite(Path(uri.removeprefix("sqlite:///")))]
    return [_server(uri, str(redact(setting)))]


def _server(uri: str, shown: str) -> Finding:
    """A tracking server, or a database without a server."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        if scheme in DATABASE_PORTS:
            with socket.create_connection((parts.hostname or "", parts.port or DATABASE_PORTS[scheme]), timeout=REPLY_SECONDS):
                return ok(f"the database of {shown} can be reached")
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=REPLY_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        fix = "check the address; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return fail(f"{shown} replies with status {error.code}: it is not MLflow, or requires a password", fix)
    except OSError as error:
        fix = f"mlflow server --host 127.0.0.1 --port {parts.port or 5000}; or run without it, and `vitscale sync` later"
        return fail(f"{shown} does not answer: {reason(error)}", fix)
    if scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return warn(f"{shown} is plain http over the network", "use https, or a tunnel and its address on 127.0.0.1")
    return ok(f"{shown} answers")


def _sqlite(path: Path) -> Finding:
    if not path.exists():
        return ok(f"{path} will be created")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=REPLY_SECONDS)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error as error:
        fix = "move the file away; `vitscale sync` sends all results again, to a new one"
        return fail(f"{path} is not an SQLite database: {error}", fix)
    return ok(f"{path} can be read")


def datasets(file: StudyFile, root: Path) -> list[Finding]:
    """Every dataset of the study exists or will be generated, and its index agrees with the study."""
    return [_dataset(file, name, root) for name in file.study.datasets]


def _dataset(file: StudyFile, name: str, root: Path) -> Finding:
    spec = file.study.datasets[name]
    alone = StudyFile(file.study.model_copy(update={"datasets": {name: spec}}), file.tree)
    try:
        facts = look_up_datasets(alone, root)[name]
    except UserError as error:
        fix = "correct the study file, or the dataset: `vitscale data verify`, `vitscale data index`"
        return fail(redact(str(error), file.variables), fix)
    folder = redact(facts.root, file.variables)
    counts = f"{facts.train:,} training images of {facts.classes} classes"
    if not isinstance(spec, ExternalData):
        generated = "" if Path(facts.root, INDEX_FILE).is_file() else "generated when the study starts, "
        return ok(f"{name}: {counts}, {generated}in {folder}")
    if not facts.missing:
        return ok(f"{name}: {counts}, in {folder}")
    if unset := [variable for variable in names_in(f"{spec.url} {spec.source}") if variable not in os.environ]:
        fix = " ".join(["export", *(f"{variable}=..." for variable in unset)])
        return fail(f"{name}: environment variable not set: {', '.join(unset)}", fix)
    by_study = f"vitscale data pack {name} --study {file.tree.file}"
    by_hand = "pack it there (`vitscale data pack --help`), or correct `url` or the mount"
    return fail(
        f"{name}: {describe_missing(redact(facts.missing, file.variables), folder)}", by_study if spec.source else by_hand
    )


def webhook(file: StudyFile) -> list[Finding]:
    """The environment variable of the webhook is set. Nothing is sent."""
    if file.study.notify is None:
        return []
    try:
        expand_environment(file.study.notify.webhook)
    except UserError as error:
        return [fail(f"notify.webhook: {error.message}", "export it where the study is started, from a secret store")]
    return [ok("notify.webhook: its environment variable is set")]
