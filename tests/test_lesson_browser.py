"""The page of a lesson in a real browser: charts are drawn, nothing is loaded, and texts from the data do nothing."""

from pathlib import Path

import pytest

from learnable.pages.lesson import render_lesson
from test_lesson_report import ARMS, evil, make_lesson
from test_reporting_browser import CHROMIUM, Visit, browser  # noqa: F401

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lesson") / "report.html"
    path.write_text(render_lesson(make_lesson()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def visit(browser, file: Path) -> Visit:  # noqa: F811
    return Visit(browser, file, viewport={"width": 1280, "height": 900})


@pytest.fixture(scope="module")
def hostile(browser, tmp_path_factory) -> Visit:  # noqa: F811
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    path.write_text(render_lesson(evil()), encoding="utf-8")
    return Visit(browser, path, viewport={"width": 390, "height": 800}, color_scheme="dark")


def test_every_chart_of_a_lesson_is_drawn(visit: Visit) -> None:
    charts = visit.page.locator(".chart")
    assert charts.count() == charts.locator("svg").count() == 12


def test_every_arm_has_a_dot(visit: Visit) -> None:
    assert visit.page.locator("#chart-values-0-0 .mark-symbol.role-mark path").count() == len(ARMS)


def test_every_arm_has_a_line_in_its_colour(visit: Visit) -> None:
    strokes = visit.page.locator("#chart-concept-0 .mark-line.role-mark path").evaluate_all(
        "marks => marks.map((mark) => getComputedStyle(mark).stroke)"
    )
    keys = visit.page.locator("#concepts ~ .keys li").evaluate_all(
        "keys => keys.map((key) => getComputedStyle(key, '::before').borderTopColor)"
    )
    assert sorted(strokes) == sorted(keys)
    assert len(set(strokes)) == len(ARMS)


def test_an_instruction_can_be_read_on_the_map(visit: Visit) -> None:
    visit.page.locator("#chart-wordings .mark-symbol.role-mark path").last.hover(force=True)
    tooltip = visit.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "task 0 in <sep>" in tooltip.inner_text()


def test_a_lesson_asks_for_nothing_and_complains_about_nothing(visit: Visit, file: Path) -> None:
    assert [url for url in visit.requests if not url.startswith("data:")] == [file.as_uri()]
    assert visit.troubles == []


def test_a_lesson_of_hostile_texts_does_nothing(hostile: Visit) -> None:
    assert hostile.page.evaluate("window.hacked") is None
    assert hostile.page.locator("img").count() == 0
    assert hostile.troubles == []


def test_a_lesson_fits_a_phone(hostile: Visit) -> None:
    assert hostile.page.evaluate("document.documentElement.scrollWidth") == 390
