"""`vitscale doctor` with real problems: files that others can read, ports that never answer, folders that cannot be written."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import WriteStudy
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.commands.doctor import print_findings
from orchestrator.doctor import cluster, machine, study
from orchestrator.doctor.examine import Check, CheckedFinding, all_passed, run_checks
from orchestrator.doctor.finding import Finding, Level, warn
from orchestrator.spec.study import read_study
from vitmodel.data.generated import DigitsConfig
from vitmodel.data.shards import pack


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))


def levels(findings: list[Finding]) -> list[str]:
    return [str(finding.level) for finding in findings]


# --- Ray's token ----------------------------------------------------------------------------------------------


def test_a_token_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("0123")
    (tmp_path / "token").chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    bad, mode = cluster.auth()
    assert (bad.level, bad.fix) == (Level.FAIL, f"chmod 600 {tmp_path / 'token'}")
    assert "0644" in bad.text
    assert mode.level is Level.OK
    (tmp_path / "token").chmod(0o600)
    assert levels(cluster.auth()) == ["ok", "ok"]


def test_a_token_without_a_valid_mode_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("0123")
    (tmp_path / "token").chmod(0o600)
    warning = cluster.auth()[-1]
    assert warning.level is Level.WARN
    assert "RAY_AUTH_MODE=token" in warning.fix
    monkeypatch.setenv("RAY_AUTH_MODE", "tokens")
    assert cluster.auth()[-1].level is Level.FAIL
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    (tmp_path / "token").unlink()
    assert "there is no token at" in cluster.auth()[-1].text


class _Head(BaseHTTPRequestHandler):
    """A job API that accepts only the token `right`, or everything where it requires no token."""

    def do_GET(self) -> None:
        required = getattr(self.server, "required", True)
        self.send_response(200 if not required or self.headers.get("Authorization") == "Bearer right" else 401)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Head)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("required", "mode", "token", "level", "text"),
    [
        (True, "", "right", "fail", "modes differ"),
        (True, "disabled", "right", "fail", "modes differ"),
        (True, "token", "wrong", "fail", "rejects this token (401)"),
        (True, "token", "right", "ok", "accepts this one"),
        (False, "token", "right", "fail", "runs without authentication"),
    ],
)
def test_the_modes_of_head_and_client(
    *, head: ThreadingHTTPServer, required: bool, mode: str, token: str, level: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.required = required  # type: ignore[attr-defined]
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    (finding,) = cluster.head()
    assert (finding.level, text in finding.text) == (level, True), finding
    assert token not in finding.text
    assert finding.fix or finding.level is Level.OK


# --- sockets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "level"), [("127.0.0.1", "ok"), ("0.0.0.0", "fail"), ("::1", "ok"), ("::", "fail")])
def test_where_a_dashboard_listens(place: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET6 if ":" in place else socket.AF_INET) as listener:
        try:
            listener.bind((place, 0))
        except OSError:
            pytest.skip(f"no {place} on this machine")
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{port}")
        assert cluster.listening(port) == [place]
        assert levels(cluster.dashboard()) == [level]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_tracker_that_never_answers_times_out(silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "REPLY_SECONDS", 0.3)
    began = time.monotonic()
    (finding,) = study.tracker(f"http://127.0.0.1:{silent}", tmp_path)
    assert (finding.level, "does not answer: timed out" in finding.text) == (Level.FAIL, True)
    assert "mlflow server --host 127.0.0.1" in finding.fix
    assert time.monotonic() - began < 5


def test_a_check_that_hangs_delays_no_other() -> None:
    began = time.monotonic()
    findings = run_checks(
        [
            Check(name="hangs", run=lambda: time.sleep(30) or [], timeout_seconds=0.3),
            Check(name="breaks", run=lambda: 1 // 0),  # type: ignore[arg-type, return-value]
            Check(name="fine", run=lambda: [Finding(level=Level.OK, text="fine")]),
        ]
    )
    assert time.monotonic() - began < 5
    levels_by_check = [(checked.check, str(checked.finding.level)) for checked in findings]
    assert levels_by_check == [("hangs", "fail"), ("breaks", "fail"), ("fine", "ok")]
    assert "timed out after 0.3 s" in findings[0].finding.text
    assert "ZeroDivisionError" in findings[1].finding.text
    assert not all_passed(findings)


# --- folders and data -----------------------------------------------------------------------------------------


def test_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert levels(study.storage(tmp_path / "file" / "runs")) == ["fail"]
    assert study.storage(tmp_path / "new")[0].level is not Level.FAIL
    assert not (tmp_path / "new").exists(), "a check leaves nothing behind"
    if os.geteuid() != 0:  # root writes everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        assert levels(study.storage(tmp_path / "locked")) == ["fail"]
    proc = study.storage(Path("/proc/vitscale"))  # read-only for everybody
    assert levels(proc) == ["fail"]


@pytest.mark.parametrize(
    ("setting", "level"), [("auto", "ok"), ("sqlite:///{}/garbage.db", "fail"), ("${env:NOT_SET_X}", "fail")]
)
def test_trackers(setting: str, level: str, tmp_path: Path) -> None:
    (tmp_path / "garbage.db").write_text("no database" * 100)
    assert levels(study.tracker(setting.replace("{}", str(tmp_path)), tmp_path)) == [level]


def test_a_file_store_behind_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITSCALE_TEST_MLFLOW", str(tmp_path / "mlruns"))
    (finding,) = study.tracker("${env:VITSCALE_TEST_MLFLOW}", tmp_path)
    assert (finding.level, "never a folder" in finding.text) == (Level.FAIL, True)


def test_datasets_one_by_one(write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITSCALE_TEST_DATA", str(tmp_path))
    pack(DigitsConfig(generate="digits", image_size=16), tmp_path / "digits")

    def change(content: dict) -> None:
        content["datasets"]["digits"] = {"url": "${env:VITSCALE_TEST_DATA}/digits", "train": 1074, "classes": 10}
        content["datasets"]["absent"] = {"url": "${env:VITSCALE_TEST_DATA}/absent", "train": 5, "classes": 2}
        content["datasets"]["unset"] = {"url": "${env:VITSCALE_NOT_SET}/x", "train": 5, "classes": 2}
        content["datasets"]["other"] = {"url": "${env:VITSCALE_TEST_DATA}/digits", "train": 9, "classes": 10}

    findings = study.datasets(read_study(write_study(change)), tmp_path)
    assert levels(findings) == ["ok", "ok", "fail", "fail", "fail"]
    assert "generated when the study starts" in findings[0].text
    assert "no index.json in ${env:VITSCALE_TEST_DATA}/absent" in findings[2].text
    assert (findings[3].text, findings[3].fix) == (
        "unset: environment variable not set: VITSCALE_NOT_SET",
        "export VITSCALE_NOT_SET=...",
    )
    assert "the index has 1074 training images" in findings[4].text


# --- this machine ---------------------------------------------------------------------------------------------


def test_versions_outside_the_tested_ranges_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ok" in levels(machine.versions())
    monkeypatch.setattr(machine, "requirements", lambda: ["rich<1", "no-such-package-here>=1", "typer>=0.1"])
    old, absent, right = machine.versions()
    assert (old.level, "outside the tested range <1" in old.text) == (Level.WARN, True)
    assert (absent.level, absent.fix) == (Level.FAIL, "pip install 'no-such-package-here>=1'")
    assert right.text.startswith("1 packages")


def test_few_open_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert machine.limits()[-1].text == "at most 512 open files, fewer than 4,096"
        assert machine.limits()[-1].level is Level.WARN
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_command(write_study: WriteStudy, silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "REPLY_SECONDS", 0.3)
    storage = ["--storage", str(tmp_path / "runs"), "--json"]
    well = CliRunner().invoke(app, ["doctor", str(write_study()), *storage])
    assert well.exit_code == 0, well.output
    assert {line["check"] for line in json.loads(well.output)} >= {"versions", "auth", "storage", "tracker", "datasets", "gpus"}
    ill = write_study(lambda content: content.update(tracking={"mlflow": f"http://127.0.0.1:{silent}"}))
    result = CliRunner().invoke(app, ["doctor", str(ill), *storage])
    assert result.exit_code == 1
    assert [line["check"] for line in json.loads(result.output) if line["level"] == "fail"] == ["tracker"]
    shown = CliRunner().invoke(app, ["doctor", str(ill), "--storage", str(tmp_path / "runs")]).output
    assert "fix: mlflow server" in shown


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per finding and its fix below. Lines are not cut if the output is no terminal; text is not read as markup."""
    findings = [Finding(level=Level.OK, text="fine [bold]:smile:" + " word" * 60), warn("little space", "free [some] of it")]
    print_findings([CheckedFinding(check="storage", finding=finding) for finding in findings])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok    storage  fine [bold]:smile:" + " word" * 60
    assert lines[1:3] == ["warn  storage  little space", "               fix: free [some] of it"]
    assert lines[3] == "1 ok, 1 warn, 0 fail"
