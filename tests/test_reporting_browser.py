"""The report in a real browser: charts are drawn, nothing is loaded, and texts from the data do nothing."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from learnable.pages.comparison import render_comparison
from learnable.pages.lesson import render_lesson
from learnable.pages.selection import render_selection
from test_comparison_report import evil, make_comparison
from test_lesson_report import make_lesson
from test_reporting import changed, make_facts

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

N, KEEP, SCORED = 200, 30, 198


class Visit:
    """A page that was opened from a file, and what it did on the way."""

    def __init__(self, browser, file: Path, **options) -> None:
        self.requests: list[str] = []
        self.troubles: list[str] = []
        self.page = browser.new_page(**options)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "console", lambda message: self.troubles.append(f"console {message.type}: {message.text}")
        )
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-drawn=yes]", timeout=10_000, state="attached")

    def _dialog(self, dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_selection(make_facts(N, KEEP, evil=True)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def visit(browser, file: Path) -> Visit:
    return Visit(browser, file, viewport={"width": 1280, "height": 900})


def test_every_chart_is_drawn_with_a_mark_per_figure(visit: Visit) -> None:
    for name in ("plane", "spread", "length", "sources", "lengths"):
        assert visit.page.locator(f"#chart-{name} svg").count() == 1, name
    assert visit.page.locator("#chart-plane .mark-symbol.role-mark path").count() == SCORED
    assert visit.page.locator("#chart-length .mark-symbol.role-mark path").count() == SCORED
    assert visit.page.locator("#chart-spread .mark-rect.role-mark path").count() >= 10
    groups = visit.page.locator("#mix ~ .wide table").first.locator("tbody tr").count()
    assert visit.page.locator("#chart-sources .mark-rect.role-mark path").count() == 2 * groups


def test_chosen_dots_have_the_colour_of_the_chosen(visit: Visit) -> None:
    fills = visit.page.locator("#chart-plane .mark-symbol.role-mark path").evaluate_all(
        "marks => marks.map((mark) => getComputedStyle(mark).fill)"
    )
    assert sorted(fills.count(fill) for fill in set(fills)) == [KEEP, SCORED - KEEP]


def test_nothing_is_asked_for_and_nothing_is_complained_about(visit: Visit, file: Path) -> None:
    assert [url for url in visit.requests if not url.startswith("data:")] == [file.as_uri()]
    assert visit.troubles == []


def test_texts_from_the_data_stay_texts_even_in_a_tooltip(visit: Visit) -> None:
    page = visit.page
    best = page.locator(".excerpt").first
    assert "<script>window.hacked = 1" in best.inner_text()
    assert "{{7*7}} ${7*7}" in best.inner_text()
    marks = page.locator("#chart-plane .mark-symbol.role-mark path")
    evil = marks.evaluate_all(
        "marks => marks.findIndex((mark) => mark.__data__.datum.source.includes('hacked'))"
    )
    marks.nth(evil).hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    for key in ("source", "learnability", "response tokens", "question", "answer"):
        assert key in tooltip.inner_text()
    assert "<script>window.hacked = 1" in tooltip.inner_text()
    assert "49" not in tooltip.locator("tr", has_text="answer").inner_text()
    assert tooltip.locator("script, img").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert visit.troubles == []


def test_the_policy_stops_a_script_that_gets_in_anyway(browser, file: Path) -> None:
    html = file.read_text(encoding="utf-8").replace("</main>", "<script>window.hacked = 1</script></main>")
    broken = file.with_name("broken.html")
    broken.write_text(html, encoding="utf-8")
    visit = Visit(browser, broken)
    assert visit.page.evaluate("window.hacked") is None
    assert "Content Security Policy" in " ".join(visit.troubles)


def test_a_phone_in_the_dark(browser, file: Path) -> None:
    visit = Visit(browser, file, viewport={"width": 390, "height": 800}, color_scheme="dark")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    for svg in visit.page.locator(".chart svg").all():
        assert svg.bounding_box()["width"] <= 390
    light, dark = (_brightness(visit, medium) for medium in ("print", "screen"))
    assert dark < 60
    assert light > 240


def _brightness(visit: Visit, medium: str) -> float:
    visit.page.emulate_media(media=medium, color_scheme="dark")
    colour = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return max(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_without_scripts_the_figures_are_still_there(browser, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("h1").inner_text() == f"{KEEP} of {N} examples chosen"
    assert "need JavaScript" in page.locator("noscript").inner_text()
    context.close()


BROKEN = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    if (node.parentElement.closest("svg, script, style, noscript")) continue;
    for (const word of node.textContent.matchAll(/[\\p{L}\\p{N}]{2,20}/gu)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].filter((box) => box.width).map((box) => Math.round(box.top)));
      if (lines.size > 1) found.push(word[0]);
    }
  }
  return found;
}"""
"""Words that stand on two lines."""
LONG = "relevance@store=sketch,dimensions=8192/round_robin"
PHONES = {
    "selection": lambda: render_selection(
        changed(
            make_facts(N, KEEP, sources=12), source=pl.lit("conversations of a helpdesk") + pl.col("source")
        )
    ),
    "comparison": lambda: render_comparison(
        make_comparison({LONG: -0.3, "target_learnability": 0.1}, budgets=(300, 600))
    ),
    "lesson": lambda: render_lesson(make_lesson()),
}


@pytest.mark.parametrize("kind", PHONES)
def test_on_a_phone_no_word_is_broken_in_the_middle(browser, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "report.html"
    file.write_text(PHONES[kind](), encoding="utf-8")
    visit = Visit(browser, file, viewport={"width": 390, "height": 844})
    assert visit.page.evaluate(BROKEN) == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_next_command_and_a_picture_stand_on_the_first_screen(browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    onward = (
        ("The chosen rows", "runs/lobass/selection/selected/my.jsonl"),
        ("Look", "learnable explore runs/lobass"),
    )
    file.write_text(render_selection(replace(make_facts(), onward=onward)), encoding="utf-8")
    visit = Visit(browser, file, viewport={"width": 1280, "height": 800})
    for part in (".onward", "#chart-spread"):
        box = visit.page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 800, part


def test_code_is_in_a_fixed_width_and_scrolls_by_itself(browser, tmp_path: Path) -> None:
    facts = make_facts()
    long = "def f():\n    return " + " + ".join(["something"] * 30)
    texts = [
        [{"role": "user", "content": "Write."}, {"role": "assistant", "content": long}]
    ] * facts.examples.height
    file = tmp_path / "report.html"
    examples = facts.examples.with_columns(messages=pl.Series(texts))
    file.write_text(render_selection(replace(facts, examples=examples)), encoding="utf-8")
    visit = Visit(browser, file, viewport={"width": 390, "height": 844})
    block = visit.page.locator("code.block").first
    assert "monospace" in block.evaluate("each => getComputedStyle(each).fontFamily")
    assert block.evaluate("each => each.scrollWidth > each.clientWidth")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390


# ---------------------------------------------------------------- the page of a comparison


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("comparison") / "report.html"
    path.write_text(render_comparison(evil()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compared(browser, comparison: Path) -> Visit:
    return Visit(browser, comparison, viewport={"width": 390, "height": 800}, color_scheme="dark")


def test_every_chart_of_a_comparison_is_drawn(compared: Visit) -> None:
    charts = compared.page.locator(".chart")
    assert charts.count() == 4
    assert charts.locator("svg").count() == 4


def test_a_difference_has_a_dot_for_each_method_and_budget(compared: Visit) -> None:
    assert compared.page.locator("#chart-differences-0 .mark-symbol.role-mark path").count() == 4


def test_a_comparison_of_hostile_texts_does_nothing(compared: Visit, comparison: Path) -> None:
    assert compared.page.evaluate("window.hacked") is None
    assert [url for url in compared.requests if not url.startswith("data:")] == [comparison.as_uri()]
    assert compared.troubles == []


def test_a_comparison_fits_a_phone(compared: Visit) -> None:
    assert compared.page.evaluate("document.documentElement.scrollWidth") == 390
