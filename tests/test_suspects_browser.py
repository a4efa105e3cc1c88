"""The page of suspects in a real browser: keys decide, the file of bans has what was decided, texts do nothing."""

import pytest

from learnable.checks import CHECKS, Checked, suspects_of
from learnable.pages.suspects import SuspectFacts, render_suspects
from test_checks import rows
from test_reporting_browser import CHROMIUM, browser  # noqa: F401

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

PAIRS = [
    (
        "How does a heart work?",
        "The heart pumps blood through the body and beats seventy times in a minute of a life.",
    ),
    ("Why?", "As an AI language model, I do not know."),
    (
        "How does a heart work?",
        "The heart pumps blood through the body and beats seventy times in a minute of life.",
    ),
    ("<script>window.hacked = 1</script>", "</article><script>window.hacked = 1</script> and the"),
]
ID = "{:032}".format


@pytest.fixture
def page(browser, tmp_path):  # noqa: F811
    checked = Checked(examples=rows(*PAIRS))
    checks = {name: CHECKS[name] for name in ("cut", "refusal", "duplicate")}
    facts = SuspectFacts(
        checked=checked,
        checks=checks,
        left_out=["loss"],
        found=suspects_of(checked, checks),
        sure=0.7,
        shown=2,
        places={row.id: f"rows.jsonl:{place}" for place, row in enumerate(checked.rows, start=1)},
        model=None,
        ranking="ranking.parquet",
        pool="pool",
        command="learnable run clean rows.jsonl",
        fingerprint="suspects-1",
    )
    file = tmp_path / "report.html"
    file.write_text(render_suspects(facts), encoding="utf-8")
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    yield page
    context.close()


def states(page):
    return page.locator(".suspect").evaluate_all("cards => cards.map((card) => card.dataset.state)")


def bans(page, tmp_path):
    with page.expect_download() as given:
        page.locator("#download").click()
    given.value.save_as(tmp_path / "bans.txt")
    return (tmp_path / "bans.txt").read_text(encoding="utf-8").split()


def test_the_sure_ones_are_marked_before_anyone_has_looked(page, tmp_path):
    assert states(page) == ["drop", ""]
    assert bans(page, tmp_path) == [ID(2)]


def test_keys_move_and_decide(page, tmp_path):
    for key in ("j", "u", "d"):  # to the first, keep it and go on, drop the second
        page.keyboard.press(key)
    assert states(page) == ["keep", "drop"]
    assert page.locator(".suspect.here").get_attribute("aria-label") == "suspect 2"
    assert "1 to drop, 0 undecided" in page.locator("#counts").inner_text()
    page.keyboard.press("x")
    page.keyboard.press("k")
    assert states(page) == ["keep", ""]
    assert page.locator(".suspect.here").get_attribute("aria-label") == "suspect 1"
    assert bans(page, tmp_path) == []


def test_buttons_decide_as_keys_do(page, tmp_path):
    page.locator(".suspect").nth(1).get_by_role("button", name="drop").click()
    assert states(page) == ["drop", "drop"]
    assert len(bans(page, tmp_path)) == 2


def test_what_was_decided_is_there_when_the_page_is_opened_again(page):
    page.keyboard.press("j")
    page.keyboard.press("u")
    page.reload()
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    assert states(page) == ["keep", ""]


def test_a_duplicate_stands_beside_its_original(page):
    sides = page.locator(".suspect").first.locator(".side")
    assert sides.count() == 2
    assert "collides with rows.jsonl:1" in sides.nth(1).inner_text()


def test_texts_do_nothing_and_the_page_fits_a_phone(page):
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") == 390
