"""The report in a real browser, if one is installed: no errors, no overflow, every curve is drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import browser
import pandas as pd
import pytest
from browser import Page
from test_report import CANARY, FACTS, done, with_a_gap

from orchestrator.report import interactive
from orchestrator.report.page import write_page
from orchestrator.report.run_charts import charts_of_frame

DRAWN = "document.documentElement.dataset.drawn === 'yes'"
SHOWN = "[...document.querySelectorAll('.still')].map(e => e.getBoundingClientRect().width > 0)"

pytestmark = pytest.mark.slow
needs_browser = pytest.mark.skipif(
    browser.find() is None or sys.platform == "win32",
    reason=f"not checked in a browser: none of {', '.join(browser.NAMES)} is on the PATH",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser.open_page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def traces_of(frame: pd.DataFrame) -> list[int]:
    """The number of traces that each chart must show."""
    figures = [interactive.figure(chart)["data"] for chart in charts_of_frame(frame)]
    return [sum(any(y is not None for y in trace["y"]) for trace in figure) for figure in figures]


@needs_browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_report_is_drawn_in_a_browser(page: Page, tmp_path: Path, width: int) -> None:
    frame = done(tmp_path, seeds=2)
    page.problems.clear()
    page.requests.clear()
    page.resize(width)
    path = write_page(frame, tmp_path, FACTS)
    page.open(path, DRAWN)
    assert page.run("document.documentElement.scrollWidth") <= width
    outside = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert page.run(f"{outside}.filter(e => !e.closest('.wide')).map(e => e.outerHTML.slice(0, 120))") == []
    drawn = page.run("[...document.querySelectorAll('.live')].map(e => e.querySelectorAll('.scatterlayer .trace').length)")
    assert drawn == traces_of(frame)
    heights = page.run("[...document.querySelectorAll('.live .scatterlayer')].map(e => e.getBoundingClientRect().height)")
    assert min(heights) > 100
    assert page.run(SHOWN) == [False] * len(drawn)
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith("data:")] == [path.absolute().as_uri()]


@needs_browser
def test_a_legend_hides_a_line_and_a_point_shows_its_run(page: Page, tmp_path: Path) -> None:
    page.resize(1440)
    page.open(write_page(done(tmp_path), tmp_path, FACTS), DRAWN)
    box = "document.querySelector('.live')"
    page.run(f"Plotly.Fx.hover({box}, [{{curveNumber: 0, pointNumber: 0}}])")
    hover_text = page.run(f"{box}.querySelector('.hoverlayer').textContent")
    for fact in ("finetune-resnet-1000-0-7", "N = 2,000", "D = 1,000 images", "C = 54 teraFLOPs", "top-1 = 70.00%"):
        assert fact in hover_text
    visible = f"[...{box}.querySelectorAll('.scatterlayer .trace')].length"
    before = page.run(visible)
    page.run(f"Plotly.restyle({box}, {{visible: 'legendonly'}}, [0]).then(() => 0)")
    assert page.run(visible) == before - 1


@needs_browser
def test_tables_sort_and_filter_and_list_all_runs(page: Page, tmp_path: Path) -> None:
    page.open(write_page(done(tmp_path), tmp_path, FACTS), DRAWN)
    column = "[...document.querySelectorAll('table.results tbody tr')].filter(r => !r.hidden).map(r => r.cells[3].textContent)"
    click = "document.querySelectorAll('table.results th button')[3].click()"
    page.run(click)
    assert page.run(column) == ["50.0", "70.0", "80.0", "95.0"]
    page.run(click)
    assert page.run(column) == ["95.0", "80.0", "70.0", "50.0"]
    page.run("(i => { i.value = 'vit 16k'; i.dispatchEvent(new Event('input')); })(document.querySelector('.tools input'))")
    assert page.run(column) == ["95.0"]
    page.run("document.getElementById('every-run').open = true")
    page.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert page.run("document.querySelectorAll('#every-run tbody tr').length") == 16


@needs_browser
def test_hostile_names_are_shown_and_not_executed(page: Page, tmp_path: Path) -> None:
    page.problems.clear()
    frame = with_a_gap(tmp_path, reason=f"{CANARY}\n<img src=x onerror=alert(1)>")
    frame = frame.replace({"task": {"digits": CANARY}, "variant": {"V8": "<a href='javascript:alert(1)'>x</a>", "R8": CANARY}})
    page.open(write_page(frame, tmp_path, {"title": CANARY}), DRAWN)
    page.run("document.getElementById('every-run').open = true")
    page.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    page.run("Plotly.Fx.hover(document.querySelector('.live'), [{curveNumber: 0, pointNumber: 0}])")
    assert page.run("document.querySelectorAll('script').length") == 4
    assert page.run("document.querySelectorAll('main a, main img:not(.still)').length") == 0
    assert CANARY in page.run("document.querySelector('.live .legend').textContent")
    assert CANARY in page.run("document.querySelector('.hoverlayer').textContent")
    assert page.problems == []


@needs_browser
def test_print_and_browsers_without_scripts_show_static_images(page: Page, tmp_path: Path) -> None:
    path = write_page(done(tmp_path), tmp_path, FACTS)
    page.open(path, DRAWN)
    page.send("Emulation.setEmulatedMedia", media="print")
    assert set(page.run(SHOWN)) == {True}
    assert page.run("[...document.querySelectorAll('.live')].some(e => e.getBoundingClientRect().width > 0)") is False
    page.send("Emulation.setEmulatedMedia", media="")
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.open(path)
    assert set(page.run(SHOWN)) == {True}
    page.send("Emulation.setScriptExecutionDisabled", value=False)
