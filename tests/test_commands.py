"""Mistakes at the command line: one line that names the file or the option and what is allowed, exit code 2, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import WriteStudy
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.laws import FORMS

STUDY_COMMANDS = ("run", "plan", "status", "stop", "report", "sync", "next", "check", "doctor", "fit")


def error_line(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `vitscale ARGUMENTS` prints to stderr: one line."""
    monkeypatch.setattr("sys.argv", ["vitscale", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize("command", STUDY_COMMANDS)
def test_a_study_file_that_does_not_exist(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert error_line([command, "absent.yaml"], capsys, monkeypatch).startswith("absent.yaml: no such file")


@pytest.mark.parametrize("command", ["report", "sync", "fit"])
def test_a_store_in_which_the_study_was_never_started(
    command: str, write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    line = error_line([command, str(write_study()), "--storage", str(tmp_path / "runs")], capsys, monkeypatch)
    assert str(tmp_path / "runs") in line
    assert "'tiny' was" in line
    assert "started" in line


@pytest.mark.parametrize("command", ["status", "stop", "report", "sync"])
def test_a_damaged_plan_is_named(
    command: str, write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "runs/studies/tiny/plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text("{")
    study = "tiny" if command in ("status", "stop") else str(write_study())
    assert error_line([command, study, "--storage", str(tmp_path / "runs")], capsys, monkeypatch).startswith(f"{plan}: damaged")


MISTAKES = {
    "status other --storage {tmp}": "no file and no study 'other' (allowed: none; no study was started in this folder)",
    "status other": "to name a study by its name, give its storage folder with --storage",
    "stop {study} --storage {tmp}": "no live driver runs study 'tiny'",
    "diff a b --storage {tmp}/absent": "{tmp}/absent: --storage: no such storage folder",
    "import-results absent.csv": "absent.csv: no such file",
    "import-results {study} --name A": "--name: invalid name 'A' (allowed: ",
    "import-results {study} --column x": "--column: invalid value 'x' (allowed: OURS=THEIRS",
    "fit absent.csv": "absent.csv: no such file",
    "fit {tmp}": "{tmp}: this is a folder; give a file",
    "next {study}": "targets: the study has no targets",
    "inspect absent --storage {tmp}": "no file or run 'absent'",
    "data pack absent {tmp}/dest": "absent: no such file or folder",
    "data pack {tmp}": "DEST: required",
    "data pack absent --study {study}": "no dataset 'absent' in this study (allowed: fractals, digits)",
    "data pack digits {tmp}/dest --study {study}": "DEST: cannot be combined with --study",
    "data pack digits --study {study} --skip-bad 1%": "--skip-bad: cannot be combined with --study",
    "data pack {tmp} {tmp}/dest --dev": "--dev: cannot be combined with a source without description",
    "data pack {tmp} {tmp}/dest --format tars --skip-bad 200%": "--skip-bad: invalid share '200%'",
    "data pack {tmp} {study}/dest --format tars": "{study}: DEST: cannot be written: ",
    "data verify {study}": "{study}: this is a file; give a folder",
    "data index absent": "absent: no such folder",
    "weights import absent {tmp}/w.safetensors": "absent: no such file or folder",
    "weights import absent {tmp}/w.npz": "{tmp}/w.npz: DEST: wrong name for layout ours (allowed: a name that ends in .saf",
    "weights import absent {tmp}/w.safetensors --model {tmp}/m.json": "{tmp}/m.json: --model: cannot be read: No such file",
    "weights export absent {tmp}/w --layout hf --storage {tmp}": "no file or run 'absent'",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes(
    command: str, write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"{tmp}": str(tmp_path), "{study}": str(write_study())}
    arguments, expected = command.split(), MISTAKES[command]
    for name, value in names.items():
        arguments, expected = [argument.replace(name, value) for argument in arguments], expected.replace(name, value)
    assert expected in error_line(arguments, capsys, monkeypatch)


def test_every_command_has_a_help_that_fits_the_list() -> None:
    """One short sentence for each command, not cut off in 80 columns."""
    for group in ([], ["data"], ["weights"]):
        shown = CliRunner().invoke(cli.app, [*group, "--help"], env={"COLUMNS": "80"}).output
        commands = shown.partition("Commands:\n")[2].strip().splitlines()
        assert len(commands) >= 3
        assert "..." not in "".join(commands)


def test_the_help_of_fit_names_every_form() -> None:
    shown = CliRunner().invoke(cli.app, ["fit", "--help"]).output
    assert all(name in shown for name, form in FORMS.items() if form.columns == 1)
