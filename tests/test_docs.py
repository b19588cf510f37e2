"""What the documentation names exists: links with their anchors, files, modules, `vitscale` verbs and make targets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import ROOT

from orchestrator import cli

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "bench|cluster|docs|notebooks|orchestrator|studies|tests|vitmodel"
CODE = re.compile(r"^```[^\n]*\n(.*?)^```|`([^`]+)`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(rf"(?<![\w/.:=-])(?:{FOLDERS})/[\w./*<>{{}}-]*")
MODULE = re.compile(r"(?<![\w/.-])(?:orchestrator|vitmodel)(?:\.[A-Za-z_]\w*)+")
VERB = re.compile(r"\bvitscale\s([a-z][a-z-]*)(?:\s([a-z][a-z-]*(?:\|[a-z-]+)*))?")
PLACED = re.compile(r"`([A-Za-z_]\w*)`\s(?:in|of)\s`([\w/.-]+\.py)`")  # `PRESETS` in `vitmodel/config/presets.py`
TARGET = re.compile(r"\bmake ([a-z][a-z-]*)\b")
PLACEHOLDER = re.compile(r"[*<>{}]|(?:^|/)[A-Z_]+(?:/|$)|\.\.\.")  # studies/<name>/plan.json, studies/NAME.yaml

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_of(page: Path) -> list[str]:
    """The text of all code blocks and code spans."""
    return [block or span for block, span in CODE.findall(page.read_text())]


def anchors_of(page: Path) -> set[str]:
    """Anchors that GitHub makes of a page's headings."""
    without_code = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def contains(source: Path, name: str) -> bool:
    """Whether a file's text has a name as a whole word."""
    return source.is_file() and re.search(rf"\b{name}\b", source.read_text()) is not None


def has_module(name: str) -> bool:
    """Whether a dotted name is a module or package of this repository, or one that such a module's text contains."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if source.is_file():
            return all(contains(source, part) for part in parts[length:])
    return False


def verbs_of(command: Any) -> dict[str, set[str]]:
    """Every verb of the command line, with the verbs of its group where it is one."""
    return {name: set(getattr(inner, "commands", ())) for name, inner in command.commands.items()}


@each_page
def test_links_resolve(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        address, _, anchor = link.partition("#")
        target = page.parent / address if address else page
        assert target.exists(), f"{page.name}: broken link {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name}: no heading for {link}"


@each_page
def test_files_and_modules_exist(page: Path) -> None:
    text = page.read_text()
    files = {name.rstrip("./") for name in FILE.findall(text) if not PLACEHOLDER.search(name)}
    missing = {name for name in files if not (ROOT / name).exists()}
    missing |= {name for code in code_of(page) for name in MODULE.findall(code) if not has_module(name)}
    missing |= {f"{name} in {file}" for name, file in PLACED.findall(text) if not contains(ROOT / file, name)}
    assert not missing, f"{page.name} names what does not exist: {sorted(missing)}"


@each_page
def test_commands_exist(page: Path) -> None:
    verbs = verbs_of(typer.main.get_command(cli.app))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in code_of(page):
        for verb, rest in VERB.findall(code):
            assert verb in verbs, f"{page.name}: no verb `vitscale {verb}`"
            for inner in rest.split("|") if rest and verbs[verb] else ():
                assert inner in verbs[verb], f"{page.name}: no verb `vitscale {verb} {inner}`"
        unknown = set(TARGET.findall(code)) - targets
        assert not unknown, f"{page.name}: no make target {sorted(unknown)}"
