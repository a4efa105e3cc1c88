"""The explorer in a real browser, over a real run: right counts, filters, download; texts from the data do nothing."""

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from learnable import commands as verbs
from learnable.explorer import read_ids
from learnable.settings import Loading, Reference
from learnable.testing import toy_examples, write_messages

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("embedding_atlas", reason="the extra explore is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

N, KEEP = 18, 6
ELSEWHERE = "http://elsewhere.invalid/pixel.png"
EVIL = (
    f'<script>window.hacked = 1</script><img src="{ELSEWHERE}" onerror="window.hacked = 2">'
    f"![pixel]({ELSEWHERE}) {{{{ 7 | times: 7 }}}} ```code```"
)
SERVE = ("-m", "learnable", "explore", "--port", "0", "--no-browser", "--json")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny) -> Path:
    """Return the folder of a run: a pool, its scores by a trained reference, and a selection of six."""
    root = tmp_path_factory.mktemp("explore")
    rows = write_messages(toy_examples(N - 1), root / "rows.jsonl")
    evil = {"messages": [{"role": "user", "content": EVIL}, {"role": "assistant", "content": f"sky {EVIL}"}]}
    with rows.open("a") as out:
        out.write(json.dumps(evil) + "\n")
    run, given = root / "run", {"model": str(tiny), "loading": Loading(dtype="float32")}
    pool = verbs.load([str(rows)], output=str(run / "pool"))
    brief = Reference(steps=2, batch_size=4, rank=2)
    reference = verbs.train([pool.path], reference=brief, output=str(run / "reference"), **given)
    scores = verbs.score(
        [pool.path], reference=reference.path, store=str(root / "store"), output=str(run / "scores"), **given
    )
    verbs.select(scores.path, budget=str(KEEP), output=str(run / "selection"))
    return run


@pytest.fixture(scope="module")
def server(run: Path, cache: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """Serve the run in a process of its own, and return it with the url that it printed."""
    place = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    process = subprocess.Popen([sys.executable, *SERVE, run], stdout=subprocess.PIPE, text=True, env=place)
    yield process, json.loads(process.stdout.readline())["url"]
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def url(server) -> str:
    return server[1]


class Visit:
    """The page, open in a browser, with what it asked for on the way."""

    def __init__(self, browser, url: str) -> None:
        self.asked: list[str] = []
        self.dialogs: list[str] = []
        self.page = browser.new_page(viewport={"width": 1440, "height": 900})
        self.page.set_default_timeout(60_000)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", self._dialog)
        self.page.goto(url)
        self.page.locator("td", has_text="window.hacked").first.wait_for()

    def _dialog(self, dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def shows(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.page.get_by_text(text).first.wait_for()

    def chosen_only(self) -> None:
        """Click the bar of the chosen."""
        self.page.get_by_text("(chosen)").first.click()
        self.shows(f"{KEEP} / {N}")


@pytest.fixture(scope="module")
def opened(url: str) -> Iterator[Visit]:
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield Visit(browser, url)
        browser.close()


@pytest.fixture
def visit(opened: Visit) -> Iterator[Visit]:
    """Return the page without filters, for the next test too."""
    yield opened
    opened.page.locator("button[title='Clear filters']").click()
    opened.shows(f"{N} / {N}")


def ask(url: str, path: str, body: dict | None = None, **headers: str) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=10) as answer:
        return answer.read()


def test_it_opens_on_the_first_row(visit: Visit, run: Path) -> None:
    first = pl.read_parquet(run / "selection" / "kept.parquet").sort("rank")["id"][0]
    texts = pl.read_parquet(run / "pool" / "examples.parquet").filter(id=first)["messages"][0]
    visit.shows(" ".join(f"{each['role']}: {each['content']}" for each in texts))


def test_the_first_screen_has_the_counts_of_the_run(visit: Visit) -> None:
    assert visit.page.title() == f"{KEEP} of {N} examples chosen by learnability"
    assert visit.page.locator("tbody tr").count() == N
    body = " ".join(visit.page.locator("body").inner_text().split())
    for counts in (f"yes {KEEP} no {N - KEEP}", f"not among the best {N - KEEP} (chosen) {KEEP}"):
        assert counts in body


def test_a_click_on_a_bar_leaves_these_rows_and_escape_brings_the_others_back(visit: Visit) -> None:
    visit.chosen_only()
    rows = visit.page.locator("tbody tr")
    assert [rows.nth(place).locator("td").nth(1).inner_text() for place in range(rows.count())] == [
        str(rank) for rank in range(1, KEEP + 1)
    ]
    visit.page.keyboard.press("Escape")
    visit.shows(f"{N} / {N}")
    assert rows.count() == N


def test_the_download_of_a_filter_has_the_ids_of_its_rows(visit: Visit, run: Path, tmp_path: Path) -> None:
    visit.chosen_only()
    visit.page.locator("button[title='Export Selection']").first.click()
    with visit.page.expect_download() as download:
        visit.page.get_by_text("Export Selection", exact=True).click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.suffix == ".parquet"
    assert set(read_ids(file)) == set(pl.read_parquet(run / "selection" / "kept.parquet")["id"])


def test_a_click_on_a_row_shows_its_text_as_it_is(visit: Visit) -> None:
    visit.page.locator("td", has_text="window.hacked").first.click()
    visit.shows(f"user: {EVIL} assistant: sky {EVIL}")


def test_code_stands_in_even_columns_and_other_text_does_not(visit: Visit) -> None:
    shown = visit.page.locator("div[style*=pre-wrap]")
    visit.page.locator("td", has_text="window.hacked").first.click()
    sync_api.expect(shown.filter(has_text="window.hacked").last).to_have_css("font-family", "monospace")
    visit.page.locator("td", has_not_text="window.hacked").filter(has_text=" ").first.click()
    sync_api.expect(shown.filter(has_text="assistant:").last).not_to_have_css("font-family", "monospace")


def test_texts_do_nothing_and_nothing_comes_from_elsewhere(visit: Visit, url: str) -> None:
    visit.page.get_by_text("Read", exact=True).click()
    visit.page.get_by_text("window.hacked").first.wait_for()
    assert visit.page.evaluate("window.hacked") is None
    assert visit.page.locator("img[src*=elsewhere]").count() == 0
    assert visit.dialogs == []
    assert [asked for asked in visit.asked if not asked.startswith((url, "blob:", "data:"))] == []


def test_the_page_may_not_ask_elsewhere(visit: Visit) -> None:
    blocked = """new Promise((resolve) => {
        document.addEventListener("securitypolicyviolation", (event) => resolve(event.blockedURI));
        setTimeout(() => resolve("it asked"), 5000);
        new Image().src = "%s";
    })"""
    assert visit.page.evaluate(blocked % ELSEWHERE) == ELSEWHERE


def test_the_dots_are_the_losses_of_the_scores(url: str, run: Path) -> None:
    query = {"type": "json", "sql": "SELECT id, loss_before, loss_after FROM dataset"}
    shown = pl.DataFrame(json.loads(ask(url, "data/query", query)))
    scores = pl.read_parquet(run / "scores" / "scores.parquet").select(shown.columns)
    assert shown.sort("id").drop("id").to_numpy() == pytest.approx(scores.sort("id").drop("id").to_numpy())


SQL = {"type": "json", "sql": "SELECT count(*) AS n FROM dataset"}
HEADERS = (
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
)


def refused(url: str, path: str, body: dict | None = None, **headers: str) -> bool:
    try:
        ask(url, path, body, **headers)
    except urllib.error.HTTPError as error:
        return error.code == 403
    return False


@pytest.mark.parametrize("headers", HEADERS)
@pytest.mark.parametrize("path", ["", "data/query", "data/metadata.json", "data/dataset.parquet"])
def test_other_sites_are_refused_even_if_they_know_the_secret(url: str, path: str, headers: dict) -> None:
    assert refused(url, path, SQL if path == "data/query" else None, **headers)


def test_the_database_is_not_asked_by_an_address_alone(url: str) -> None:
    query = urllib.parse.quote(json.dumps(SQL))
    assert refused(url, f"data/query?query={query}")
    assert json.loads(ask(url, "data/query", SQL, Sec_Fetch_Site="same-origin")) == [{"n": N}]


@pytest.mark.parametrize(
    "path", ["", "data/query", "data/metadata.json", "data/archive.zip", "data/cache/x", "x"]
)
@pytest.mark.parametrize("secret", ["", "x/", "{}x/", "../{}/", "%2e/{}/"])
def test_nothing_is_given_out_without_the_secret(url: str, path: str, secret: str) -> None:
    root, known, _ = url.rsplit("/", 2)
    assert len(known) >= 32
    assert refused(f"{root}/", secret.format(known) + path, SQL if path == "data/query" else None)


def test_a_page_of_another_site_changes_nothing(url: str, opened: Visit) -> None:
    drop = urllib.parse.quote(json.dumps({"type": "exec", "sql": "DROP TABLE dataset"}))
    place = f"{url}data/query"
    page = f"""<img src="{place}?query={drop}"><form method=post enctype=text/plain action="{place}" target=out>
        <input name='{{"type":"exec","sql":"DROP TABLE dataset","x":"' value='"}}'></form><iframe name=out></iframe>
        <script>fetch("{place}?query={drop}", {{mode: "no-cors", credentials: "include"}});
        fetch("{place}", {{mode: "no-cors", method: "POST", body: decodeURIComponent("{drop}")}});
        document.forms[0].submit()</script>"""

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        tab = opened.page.context.browser.new_page()
        for host in ("127.0.0.1", "localhost"):
            statuses: list[int] = []
            tab.on("response", lambda answer: statuses.append(answer.status) if place in answer.url else None)  # noqa: B023
            tab.goto(f"http://{host}:{site.server_address[1]}/")
            tab.wait_for_timeout(500)
            assert len(statuses) >= 3
            assert set(statuses) == {403}
        tab.close()
        site.shutdown()
    assert json.loads(ask(url, "data/query", SQL)) == [{"n": N}]


def test_ctrl_c_ends_it_in_good_order(server) -> None:
    process, _ = server
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
