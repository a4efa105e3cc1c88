"""The table that the explorer shows, its first screen, the map, the exported folder, and ids that come back."""

import io
import json
import socket
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from finished_steps import finished_step
from learnable import commands as verbs
from learnable import explorer as exploring
from learnable.cli import app as cli
from learnable.commands.explore import explore
from learnable.errors import DataError, StoreError, UsageError
from learnable.explorer import Sheet, read_ids, sheet_of, with_map
from learnable.explorer.map import FEW
from learnable.explorer.screen import COLUMNS, DRAWN_ROWS, first_screen
from learnable.runs.records import Outcome
from learnable.testing import toy_examples, write_messages

N = 12
TITLE = "<b>title</b>"


def scores_of(ids: list[str]) -> pl.DataFrame:
    """Return scores of n examples; the third is not defined."""
    n = np.arange(len(ids))
    before, after = (2 + n / 10).astype("f4"), (1 + n / 5).astype("f4")
    after[2] = np.nan
    columns = {"source": ["left", "right"] * (len(ids) // 2), "tokens": n + 20, "response_tokens": n + 5}
    columns |= {"truncated": n == 1, "undefined": [None if i != 2 else "no response token" for i in n]}
    return pl.DataFrame(
        {
            "id": ids,
            **columns,
            "loss_before": before,
            "loss_after": after,
            "learnability": (before - after) / before,
        },
        schema_overrides={"undefined": pl.String},
    )


def chosen_of(ids: list[str]) -> dict[str, pl.DataFrame]:
    kept = pl.DataFrame({"id": [ids[3], ids[0]], "rank": [0, 1], "gain": [0.5, 0.4]})
    rest = [each for each in ids if each not in kept["id"]]
    reasons = ["near-duplicate of 0123abcd (cosine 0.98)", *["not among the best"] * (len(rest) - 1)]
    return {"kept": kept, "dropped": pl.DataFrame({"id": rest, "reason": reasons})}


def messages_of(ids: list[str]) -> pl.DataFrame:
    turns = [
        ("system", "be brief"),
        ("user", "one?"),
        ("assistant", "two"),
        ("user", "three?"),
        ("assistant", "four"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    return pl.DataFrame({"id": ids, "messages": [messages] * len(ids)})


IDS = [f"{number:032x}" for number in range(N)]


@pytest.fixture(scope="module")
def sheet() -> Sheet:
    given = {"examples": messages_of(IDS), **chosen_of(IDS)}
    return sheet_of(scores_of(IDS), title=TITLE, about="about", by="learnability", **given)


# ---------------------------------------------------------------- the table


def test_each_example_is_chosen_with_its_rank_or_dropped_with_a_reason(sheet: Sheet) -> None:
    frame = sheet.frame
    assert frame["id"].to_list() == IDS
    assert frame.filter(chosen="yes").select("id", "rank").sort("rank").rows() == [(IDS[3], 1), (IDS[0], 2)]
    dropped = frame.filter(chosen="no")
    assert dropped["reason"].null_count() == 0
    assert dropped["rank"].null_count() == dropped.height == N - 2


def test_a_conversation_is_shown_whole_and_its_first_question_and_last_answer_apart(sheet: Sheet) -> None:
    row = sheet.frame.row(0, named=True)
    assert (row["question"], row["answer"]) == ("one?", "four")
    assert (
        row["conversation"]
        == "system:\nbe brief\n\nuser:\none?\n\nassistant:\ntwo\n\nuser:\nthree?\n\nassistant:\nfour"
    )


def test_what_is_undefined_is_null_for_sql(sheet: Sheet) -> None:
    assert sheet.frame.filter(pl.col("learnability").is_null())["id"].to_list() == [IDS[2]]
    assert sheet.frame["loss_before"].dtype == pl.Float32


def test_columns_stand_as_one_reads_them(sheet: Sheet) -> None:
    assert sheet.frame.columns[:6] == ["chosen", "rank", "learnability", "source", "question", "answer"]
    assert sheet.frame.columns[-3:] == ["conversation", "id", "row"]


def test_a_column_of_the_user_is_kept_beside_one_of_ours() -> None:
    given = pl.DataFrame(
        {"id": IDS, "rank": range(N), "learnability": np.ones(N), "comment": ["long text"] * N}
    )
    frame = sheet_of(given, title="", about="", by="learnability", **chosen_of(IDS)).frame
    assert frame["rank_given"].to_list() == list(range(N))
    assert frame["rank"].drop_nulls().len() == 2


def test_methods_that_chose_an_example_are_listed() -> None:
    picks = [("ifd", 0, IDS[0]), ("ifd", 1, IDS[0]), ("random", 0, IDS[0]), ("random", 0, IDS[1])]
    selections = pl.DataFrame(picks, schema=["method", "seed", "id"], orient="row")
    frame = sheet_of(scores_of(IDS), title="", about="", selections=selections).frame
    assert frame["chosen_by"].to_list()[:3] == [["ifd", "random"], ["random"], []]


# ---------------------------------------------------------------- the first screen


def fields_of(chart: object) -> set[str]:
    """Return the names of all columns that a chart reads."""
    if isinstance(chart, list):
        return set().union(*map(fields_of, chart))
    if not isinstance(chart, dict):
        return set()
    here = {chart["field"]} if isinstance(chart.get("field"), str) else set()
    here |= {
        value for key, value in chart.get("data", {}).items() if isinstance(value, str) and key != "isList"
    }
    return here.union(*map(fields_of, chart.values()))


def cases() -> dict[str, Sheet]:
    scores, texts = scores_of(IDS), messages_of(IDS)
    return {
        "selection": sheet_of(
            scores, title="", about="", by="learnability", examples=texts, **chosen_of(IDS)
        ),
        "scores": sheet_of(scores, title="", about="", examples=texts),
        "no reference": sheet_of(scores.drop("loss_after"), title="", about="", examples=texts),
        "losses only": sheet_of(scores.select("id", "source", "loss_before"), title="", about=""),
    }


@pytest.mark.parametrize("name", cases())
def test_every_chart_reads_columns_that_are_there_and_has_a_place_of_its_own(name: str) -> None:
    sheet = cases()[name]
    state = first_screen(sheet)
    assert set().union(*map(fields_of, state["charts"].values())) <= set(sheet.frame.columns)
    assert {each for layout in state["layouts"].values() for each in layout["chartIds"]} == set(
        state["charts"]
    )
    cells = [
        (column, row)
        for place in state["layouts"]["overview"]["grids"]["24x18"]["placements"].values()
        for column in range(place["x"], place["x"] + place["width"])
        for row in range(place["y"], place["y"] + place["height"])
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < COLUMNS


@pytest.mark.parametrize(("name", "coloured"), [("selection", True), ("scores", False)])
def test_bars_are_coloured_by_the_choice_where_there_is_one(name: str, coloured: bool) -> None:
    charts = first_screen(cases()[name])["charts"]
    for bars in ("source", "score", "length"):
        colours = [each["encoding"].get("color") for each in charts[bars].get("layers", ())]
        assert ({"field": "chosen"} in colours) == coloured, bars


def test_many_examples_are_drawn_as_counts() -> None:
    ids = [f"{number:032x}" for number in range(DRAWN_ROWS + 2)]
    for given, mark in ((ids[:-2], "point"), (ids, "rect")):
        charts = first_screen(sheet_of(scores_of(given), title="", about=""))["charts"]
        assert charts["plane"]["layers"][0]["mark"] == mark


def test_the_best_stand_first_also_where_the_lowest_are_the_best() -> None:
    for lowest, direction in (((), "descending"), (("learnability",), "ascending")):
        sheet = sheet_of(
            scores_of(IDS), title="", about="", by="learnability", lowest=lowest, **chosen_of(IDS)
        )
        assert first_screen(sheet)["charts"]["table"]["sort"] == [
            {"column": "rank", "direction": "ascending"},
            {"column": "learnability", "direction": direction},
        ]


# ---------------------------------------------------------------- the map


def test_a_map_puts_similar_examples_together_and_leaves_out_those_without_a_vector(sheet: Sheet) -> None:
    rng = np.random.default_rng(0)
    groups = np.arange(N) % 2
    vectors = (np.eye(8)[groups] + rng.normal(scale=0.01, size=(N, 8))).astype("f4")
    vectors[4] = np.nan
    frame = with_map(sheet, vectors, of="made up").frame
    assert frame.filter(pl.col("map_x").is_null())["id"].to_list() == [IDS[4]]
    placed = np.delete(np.arange(N), 4)
    side = frame["map_x"].to_numpy() > 0
    assert len(set(side[placed] == groups[placed])) == 1  # one group on each side
    near = frame["__neighbors"].struct.field("ids").to_list()
    for place in placed:
        assert near[place][0] == place + 1  # itself, by its row
        assert {(row - 1) % 2 for row in near[place][:5]} == {groups[place]}


@pytest.mark.slow
def test_a_large_map_is_laid_out_by_umap_the_same_again(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ids = [f"{number:032x}" for number in range(FEW + 100)]
    groups = np.arange(len(ids)) % 2
    vectors = np.eye(8)[groups] + np.random.default_rng(0).normal(scale=0.01, size=(len(ids), 8))
    maps = [
        with_map(sheet_of(scores_of(ids), title="", about=""), vectors.astype("f4"), of="made up").frame
        for _ in range(2)
    ]
    assert maps[0].rows() == maps[1].rows()
    near = maps[0]["__neighbors"].struct.field("ids").to_list()
    assert all({(row - 1) % 2 for row in rows} == {group} for rows, group in zip(near, groups, strict=True))
    left, right = (
        maps[0].filter(pl.Series(groups == group))["map_x", "map_y"].to_numpy() for group in (0, 1)
    )
    assert np.linalg.norm(left.mean(axis=0) - right.mean(axis=0)) > max(left.std(), right.std())


def test_a_map_of_two_is_no_map(sheet: Sheet) -> None:
    vectors = np.full((N, 4), np.nan, dtype="f4")
    vectors[:2] = 1
    with pytest.raises(UsageError, match="at least 3 examples, and 2 have one"):
        with_map(sheet, vectors, of="made up")


# ---------------------------------------------------------------- ids that come back


def files(folder: Path) -> dict[str, Path]:
    table = pl.DataFrame({"id": ["00012", "abc", "00012"], "other": [1, 2, 3]})
    paths = {kind: folder / f"download.{kind}" for kind in ("parquet", "csv", "json", "jsonl", "txt")}
    table.write_parquet(paths["parquet"])
    table.write_csv(paths["csv"])
    table.write_json(paths["json"])
    table.write_ndjson(paths["jsonl"])
    paths["txt"].write_text("00012\n\nabc\r\n00012\n")
    return paths


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "jsonl", "txt"])
def test_ids_are_read_as_text_once_each_in_their_order(kind: str, tmp_path: Path) -> None:
    assert read_ids(files(tmp_path)[kind]) == ["00012", "abc"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "name\nx\n", "no column 'id'"),
        ("a.csv", "id,x\n,1\nabc,2\n", "row 1 has no id"),
        ("a.json", '[{"id": 12}]', "row 1 has 12 for an id"),
        ("a.json", '{"id": "abc"}', "no list of rows"),
        ("a.jsonl", "{", "cannot read"),
        ("a.parquet", "nonsense", "cannot read"),
        ("a.xlsx", "id", "not read from .xlsx"),
        ("a.csv", "", "cannot read"),
    ],
)
def test_a_file_without_ids_says_what_is_wrong(name: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says) as caught:
        read_ids(tmp_path / name)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", ""), ("a.jsonl", ""), ("a.json", "[]"), ("a.csv", "id\n")]
)
def test_a_filter_that_leaves_nothing_names_no_ids(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert read_ids(tmp_path / name) == []


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Return a run with a pool, made-up scores and two selections, the one of three rows last."""
    root = tmp_path_factory.mktemp("explore")
    pool = verbs.load(
        [str(write_messages(toy_examples(N), root / "rows.jsonl"))], output=str(root / "run" / "pool")
    )
    scored = made_up_scores(pool, root / "run" / "scores")
    verbs.select(scored.path, budget="5", output=str(root / "run" / "selection-5"))
    verbs.select(scored.path, budget="3", output=str(root / "run" / "selection-3"))
    return root / "run"


def made_up_scores(pool: Outcome, folder: Path) -> Outcome:
    ids = pl.read_parquet(pool.folder / "examples.parquet")["id"].to_list()
    facts = {"examples": len(ids), "model": "tiny", "scorers": ["learnability"], "vectors": "none"}
    facts |= {"lowest first": [], "max score": {}}
    return finished_step(
        "score",
        folder,
        facts=facts,
        write=lambda folder: scores_of(ids).write_parquet(folder / "scores.parquet"),
        inputs={"pool": pool.identity},
        links={"pool": pool.folder},
    )


@pytest.fixture
def exported(monkeypatch) -> list[Sheet]:
    """Return the sheets that would be written, instead of writing the 90 MB of a page for each."""
    sheets: list[Sheet] = []
    monkeypatch.setattr(exploring, "needs_explorer", lambda: None)
    monkeypatch.setattr(exploring, "export", lambda sheet, folder: sheets.append(sheet))
    return sheets


@pytest.mark.parametrize(
    ("given", "title"),
    [
        (".", f"3 of {N} examples chosen by learnability"),
        ("selection-5", f"5 of {N} examples chosen by learnability"),
        ("scores", f"{N} examples scored"),
    ],
)
def test_a_run_means_its_newest_selection(run: Path, exported: list[Sheet], given: str, title: str) -> None:
    explore(str(run / given), export="page")
    assert exported[0].title == title
    assert exported[0].has("conversation")


def test_a_comparison_says_who_chose_an_example(run: Path, exported: list[Sheet], tmp_path: Path) -> None:
    scores = pl.read_parquet(run / "scores" / "scores.parquet")
    picks = pl.DataFrame({"id": scores["id"][:2], "method": ["ifd", "random"]})

    def write(folder: Path) -> None:
        scores.write_parquet(folder / "scores.parquet")
        picks.write_parquet(folder / "selections.parquet")

    facts = {"pool": N, "methods": ["ifd", "random"], "model": "tiny"}
    finished_step("compare", tmp_path / "comparison", facts=facts, write=write, links={"pool": run / "pool"})
    explore(str(tmp_path), export="page")
    assert exported[0].title == f"{N} examples, 2 methods compared"
    assert exported[0].frame["chosen_by"].to_list()[:3] == [["ifd"], ["random"], []]


def test_a_selection_from_a_table_of_losses_is_shown_without_texts(
    exported: list[Sheet], tmp_path: Path
) -> None:
    scores_of(IDS).select("id", "loss_before", "loss_after").write_csv(tmp_path / "losses.csv")
    verbs.select(str(tmp_path / "losses.csv"), budget="3", output=str(tmp_path / "selection"))
    explore(str(tmp_path / "selection"), export="page")
    assert exported[0].frame.filter(chosen="yes").height == 3
    assert "conversation" not in exported[0].frame.columns


def test_measured_vectors_make_a_map_unless_only_losses_are_wanted(
    run: Path, exported: list[Sheet], tmp_path: Path
) -> None:
    scored = tmp_path / "scores"
    step = json.loads((run / "scores" / "step.json").read_text())
    step["facts"]["vectors"], step["links"]["pool"] = "model", str(run / "pool")
    scored.mkdir()
    (scored / "step.json").write_text(json.dumps(step))
    scores = pl.read_parquet(run / "scores" / "scores.parquet")
    scores.write_parquet(scored / "scores.parquet")
    vectors = np.random.default_rng(0).normal(size=(N, 4)).astype("f4")
    pl.DataFrame({"id": scores["id"], "vector": vectors.tolist()}).write_parquet(scored / "vectors.parquet")
    explore(str(scored), export="page")
    explore(str(scored), export="page", map="loss")
    assert [sheet.map is not None for sheet in exported] == [True, False]


def test_a_map_that_was_not_measured_says_how_to_get_it(run: Path, exported: list[Sheet]) -> None:
    with pytest.raises(UsageError, match="holds no vectors of the model") as caught:
        explore(str(run), export="page", map="model")
    assert "--vectors model" in caught.value.hint


@pytest.mark.parametrize(
    ("folder", "says"),
    [("nowhere", "there is no folder"), ("run/pool", "output of `learnable load`"), (".", "holds no result")],
)
def test_a_folder_with_nothing_to_look_at_is_named(run: Path, exported, folder: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        explore(str(run.parent / folder), export="page")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a screen")
def test_without_a_screen_no_browser_is_started_and_it_says_how_to_look(
    run: Path, monkeypatch, capsys
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(exploring, "needs_explorer", lambda: None)
    monkeypatch.setattr(exploring, "serve", lambda sheet, listening, secret: listening.close())
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail("it opened a browser"))
    assert cli.call(["explore", str(run), "--port", "0"]) == 0
    out, err = capsys.readouterr()
    port = out.removeprefix("url: http://127.0.0.1:").partition("/")[0]
    assert f"ssh -L {port}:127.0.0.1:{port}" in err


@pytest.mark.parametrize(
    ("asked", "line"), [([], "url: {}\n"), (["--json"], '{{"url": "{}"}}\n')], ids=["people", "programs"]
)
def test_the_url_is_out_before_the_page_is_served_and_stands_alone(
    run: Path, monkeypatch, asked: list[str], line: str
) -> None:
    raw, seen = io.BytesIO(), {}

    def serve(sheet: Sheet, listening: socket.socket, secret: str) -> None:
        seen[raw.getvalue().decode()] = f"http://127.0.0.1:{listening.getsockname()[1]}/{secret}/"
        listening.close()

    monkeypatch.setattr(exploring, "needs_explorer", lambda: None)
    monkeypatch.setattr(exploring, "serve", serve)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8"))
    assert cli.call(["explore", str(run), "--port", "0", "--no-browser", *asked]) == 0
    sys.stdout.flush()
    ((said, url),) = seen.items()
    assert said == line.format(url)
    assert raw.getvalue().decode() == said


@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize(("asked", "read"), [([], str), (["--json"], json.loads)], ids=["people", "programs"])
def test_an_export_says_its_folder_and_nothing_else(run: Path, capsys, asked: list[str], read) -> None:
    assert cli.call(["explore", str(run), "--export", "page", *asked]) == 0
    assert read(capsys.readouterr().out) == ({"folder": "page"} if asked else "folder: page\n")


def test_a_taken_port_is_named_and_left_out_any_free_one_is_taken(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1, port {port}"):
            exploring.listen("127.0.0.1", port)
        monkeypatch.setattr("learnable.explorer.site.PORT", port)
        with exploring.listen("127.0.0.1", None) as other:
            assert other.getsockname()[1] != port


def test_a_missing_extra_is_named_before_anything_is_read(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "embedding_atlas.server", None)
    with pytest.raises(UsageError, match="learnable explore needs the package embedding_atlas") as caught:
        explore("nowhere")
    assert caught.value.hint == 'pip install "learnable[explore]"'


# ---------------------------------------------------------------- the exported folder


@pytest.fixture(scope="module")
def page(sheet: Sheet, tmp_path_factory) -> Path:
    pytest.importorskip("embedding_atlas", reason="the extra explore is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("exported") / "page"
        exploring.export(sheet, folder)
    return folder


def test_an_exported_page_has_the_table_and_asks_nobody_for_it(page: Path, sheet: Sheet) -> None:
    shown = pl.read_parquet(page / "data" / "dataset.parquet")
    assert shown.rows() == sheet.frame.rows()
    metadata = json.loads((page / "data" / "metadata.json").read_text())
    assert metadata["database"] == {"type": "wasm", "load": True}
    assert metadata["props"]["initialState"] == json.loads(json.dumps(first_screen(sheet)))


def test_an_exported_page_may_not_load_from_elsewhere_and_its_title_is_text(page: Path) -> None:
    html = (page / "index.html").read_text()
    assert "<title>&lt;b&gt;title&lt;/b&gt;</title>" in html
    assert "default-src 'none'" in html.split("<script")[0]


def test_an_export_replaces_no_folder(page: Path, sheet: Sheet) -> None:
    with pytest.raises(UsageError, match="is there already"):
        exploring.export(sheet, page)
