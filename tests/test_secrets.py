"""Secrets are never written: canaries in every output, and the rules that keep hostile input harmless."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, TINY, WriteStudy, clean_environment, run_study
from test_notify import Receiver

from orchestrator.prepare import prepare
from orchestrator.secrets import as_named, expand_environment, redact
from orchestrator.spec.study import read_study
from vitmodel.config.base import UserError
from vitmodel.data.generated import DigitsConfig
from vitmodel.data.shards import pack

CANARY = "canary-9d81e2f7"


# --- redaction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach https://me:hunter22@host/x", "cannot reach https://***@host/x"),
        ("postgresql://${env:DB}@host/x", "postgresql://${env:DB}@host/x"),
        ("https://host/x?token=abc123&n=3", "https://host/x?token=***&n=3"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ('{"api_key": "abc123"}', '{"api_key": "***"}'),
        ("401 for password = hunter22, again", "401 for password = ***, again"),
        (f"no shard in /mnt/{CANARY}/digits", "no shard in /mnt/${env:VITSCALE_TEST_PLACE}/digits"),
        (f"RuntimeError: {CANARY}-token", "RuntimeError: ${env:VITSCALE_TEST_TOKEN}"),
        ("7 tokens of width 8, member 'a.jpg' at byte 512: no class number", None),
        ("https://host/data/train-00001.tar: truncated at byte 12", None),
        ("/mnt/work/runs: storage folder cannot be written", None),  # $PWD: a folder, not a password
    ],
)
def test_secrets_in_texts_are_hidden(text: str, shown: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITSCALE_TEST_PLACE", CANARY)
    monkeypatch.setenv("VITSCALE_TEST_TOKEN", f"{CANARY}-token")  # not named by the study, but its name is that of a secret
    monkeypatch.setenv("VITSCALE_TEST_KEY", "true")
    monkeypatch.setenv("PWD", "/mnt/work")
    assert redact(text, ("VITSCALE_TEST_PLACE",)) == (shown or text)


def test_values_of_secret_keys_are_redacted() -> None:
    data = {"tracking": {"password": "x", "mlflow": "auto"}, "list": [{"API_KEY": "y", "keys": "z"}], "tokens": 7, "token": "t"}
    assert redact(data) == {
        "tracking": {"password": "***", "mlflow": "auto"},
        "list": [{"API_KEY": "***", "keys": "z"}],
        "tokens": 7,
        "token": "***",
    }
    assert redact({"webhook": "${env:HOOK}"}) == {"webhook": "${env:HOOK}"}


def test_naming_and_expanding_are_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITSCALE_TEST_A", "/shared/data")
    monkeypatch.setenv("VITSCALE_TEST_B", "/shared/data/inner")
    for text in ("/shared/data/inner/x", "/shared/data/x", "/other", "/shared/data/shared/data"):
        assert expand_environment(as_named(text, ("VITSCALE_TEST_A", "VITSCALE_TEST_B"))) == text
    assert as_named("/shared/data/inner/x", ("VITSCALE_TEST_A", "VITSCALE_TEST_B")) == "${env:VITSCALE_TEST_B}/x"


# --- a whole study --------------------------------------------------------------------------------------------


@pytest.fixture
def hook() -> Iterator[Receiver]:
    server = Receiver(200)
    yield server
    server.shutdown()
    server.server_close()


def places_of(secret: str, folder: Path) -> list[str]:
    """Files below a folder that hold a text, in their name or anywhere in their bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if secret in str(path.relative_to(folder)) or secret.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_study_writes_no_secret_anywhere(write_study: WriteStudy, hook: Receiver, tmp_path: Path) -> None:
    """A dataset's folder, MLflow's address and a webhook come from the environment; a shard is damaged, so a run fails and
    reports where. The canary is in the environment of every process and must not be in any output of any of them."""
    hidden = tmp_path / f"data-{CANARY}"
    hidden.mkdir()
    index = pack(DigitsConfig(generate="digits", image_size=16), hidden / "digits")
    shard = hidden / "digits" / index.splits["train"].shards[0].name
    damaged = bytearray(shard.read_bytes())
    damaged[1024:-1024] = bytes(len(damaged) - 2048)
    status = shard.stat()
    shard.write_bytes(damaged)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))

    def change(content: dict) -> None:
        content["datasets"]["digits"] = {"url": "${env:CANARY_DATA}/digits", "train": 1074, "classes": 10}
        content["pretrain"].update(sizes=[128], models=content["pretrain"]["models"][:1])
        content["transfer"]["epochs"] = [1]
        content.pop("probe")
        content["tracking"] = {"mlflow": "sqlite:///${env:CANARY_DATA}/mlflow.db"}
        content["notify"] = {"webhook": "${env:CANARY_HOOK}"}
        content["on_failure"] = {"retries": 0}

    secrets = {"CANARY_DATA": str(hidden), "CANARY_HOOK": f"http://127.0.0.1:{hook.server_port}/{CANARY}"}
    secrets["SOME_API_TOKEN"] = f"{CANARY}-token"
    storage = tmp_path / "runs"
    done = run_study(write_study(change), storage, env={**clean_environment(), **secrets})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: finetune-" in done.stdout
    assert CANARY not in done.stdout + done.stderr
    failure = next((storage / "runs").glob("finetune-*/failure.json")).read_text()
    assert "${env:CANARY_DATA}" in failure, "the cause names the folder by its variable"
    assert places_of(CANARY, storage) == []
    assert (storage / "studies/tiny/report.html").exists()
    assert places_of(CANARY, hidden) == [], "MLflow's database"
    assert [body["event"] for body in hook.arrived(2)] == ["failed", "done"]
    assert CANARY not in json.dumps(hook.bodies)


def test_a_variable_that_is_not_set_is_reported_before_anything_runs(write_study: WriteStudy, tmp_path: Path) -> None:
    for key, section in (("webhook", "notify"), ("mlflow", "tracking")):
        study = write_study(lambda content: content.update({section: {key: "${env:VITSCALE_NOT_SET}"}}))  # noqa: B023
        done = run_study(study, tmp_path / "runs")
        assert done.returncode == 2
        assert f"{section}.{key}: environment variable VITSCALE_NOT_SET is not set" in done.stderr
        assert not (tmp_path / "runs").exists()


# --- hostile names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "../up", "a/b", "A", "", "x" * 65, "a\n"])
def test_names_that_are_folders_stay_in_their_place(name: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    for before, after in (("name: tiny", f"name: {json.dumps(name)}"), ("  digits: {gen", f"  {json.dumps(name)}: {{gen")):
        path.write_text(TINY.replace(before, after))
        with pytest.raises(UserError, match=r"line \d+"):
            read_study(path)


def test_what_a_study_generates_lies_below_its_storage(write_study: WriteStudy, tmp_path: Path) -> None:
    prepared = prepare(write_study(), str(tmp_path / "runs"))
    for root in prepared.plan.datasets.values():
        assert Path(root).resolve().is_relative_to((tmp_path / "runs").resolve())


# --- what the code may not do ---------------------------------------------------------------------------------


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Every call: dotted name and keyword arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}


def test_nothing_is_unpickled_and_no_shell_runs() -> None:
    for path in [file for package in ("vitmodel", "orchestrator") for file in sorted((ROOT / package).rglob("*.py"))]:
        tree = ast.parse(path.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, path
        for name, keywords in calls(tree):
            where = f"{path.relative_to(ROOT)}: {name}"
            assert name not in ("eval", "exec", "os.system", "os.popen", "pickle.loads", "pd.read_pickle"), where
            if name == "torch.load":
                assert ast.unparse(keywords.get("weights_only", ast.Constant(False))) == "True", where
            if name in ("np.load", "numpy.load"):  # the default is False too; stated, it cannot change
                assert ast.unparse(keywords.get("allow_pickle", ast.Constant(False))) == "False", where
            assert "shell" not in keywords or ast.unparse(keywords["shell"]) == "False", where
