"""``learnable leakage``: items in several orders, the tokens that count, the command with its tables, and bad input."""

import json
import math
import time
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from learnable.cli import app as cli
from learnable.commands import leakage
from learnable.commands.leak_search import Detecting
from learnable.commands.likelihoods import LocalTexts, text_model
from learnable.errors import DataError, ModelError, UsageError
from learnable.evaluators.leakage import choice_items, reproduced
from learnable.measures import keep
from learnable.models.language_model import LanguageModel
from learnable.models.packing import packed
from learnable.models.rendering import Renderer
from learnable.pages.leakage import headline
from learnable.runs.store import Store
from learnable.settings import Loading
from learnable.testing import _WORDS, tiny_model
from learnable.types import ModelRef
from processes import OFTEN, at_work

EXACT = Loading(dtype="float32")


def rows_of(count, *, options=4, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "question": " ".join(rng.choice(_WORDS, 6)) + "?",
            "choices": [" ".join(rng.choice(_WORDS, 3)) + f" {place}" for place in range(options)],
            "answer": 0,
            "subject": ("left", "right")[number % 2],
            "seen": number % 2 == 0,
        }
        for number in range(count)
    ]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("other") / "model", seed=1)


@pytest.fixture
def benchmark(tmp_path):
    return written(tmp_path / "items.jsonl", rows_of(8))


@pytest.fixture
def asked(tiny, other, tmp_path):
    """Run the command on the tiny models, with everything in one folder."""

    def ask(benchmark, output="leak", **given):
        given = {"model": str(tiny), "reference": str(other), "loading": EXACT} | given
        return leakage(benchmark, store=str(tmp_path / "store"), output=str(tmp_path / output), **given)

    return ask


def item(tmp_path, row, **how):
    (found,) = choice_items(written(tmp_path / "one.jsonl", [row]), **how)
    return found


def test_an_item_is_a_question_and_its_options_in_an_order(tmp_path):
    found = item(tmp_path, {"question": "What?", "A": "sun", "B": "moon", "C": "sea", "answer": "A"})
    text, start = found.text((2, 0, 1))
    assert text == "What?\nA. sea\nB. sun\nC. moon"
    assert text[start:].startswith("A. sea")
    assert found.orders(None)[0] == (0, 1, 2)
    assert found.opening(0) == "What?\nA."
    assert found.opening(1) == "What?\nA. sun\nB."


@pytest.mark.parametrize(("options", "orders"), [(2, 2), (3, 6), (4, 24), (5, 24), (10, 24)])
def test_twenty_four_orders_are_all_or_drawn(tmp_path, options, orders):
    found = item(tmp_path, {"question": "What?", "choices": list("abcdefghij"[:options])})
    drawn = found.orders(24)
    assert len(set(drawn)) == len(drawn) == orders
    assert drawn[0] == tuple(range(options))
    assert drawn == found.orders(24)


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"question": "q", "A": "x", "B": "y"}, ("x", "y")),
        ({"question": "q", "choices": ["x", "y", "z"]}, ("x", "y", "z")),
        ({"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}}, ("x", "y")),
        ({"instruction": "q\n\nAnswer1: x y Answer2: z\n\nAnswer format: answer1/answer2"}, ("x y", "z")),
    ],
    ids=["columns", "choices", "ARC", "inside"],
)
def test_items_come_in_the_forms_of_multiple_choice(tmp_path, row, options):
    found = item(tmp_path, row)
    assert (found.question, found.options, found.refused) == ("q", options, "")


def test_a_task_of_lm_eval_gives_its_items(tmp_path):
    pytest.importorskip("lm_eval")
    data = written(tmp_path / "data.jsonl", [{"query": "What?", "offered": ["x", "y", "z"], "gold": 1}])
    task = tmp_path / "task.yaml"
    task.write_text(
        "task: mine\ndataset_path: json\noutput_type: multiple_choice\ntest_split: train\n"
        f"dataset_kwargs: {{data_files: {data}}}\ndoc_to_text: '{{{{query}}}} Answer:'\n"
        "doc_to_choice: '{{offered}}'\ndoc_to_target: gold\n",
        encoding="utf-8",
    )
    (found,) = choice_items(f"lm_eval:{task}")
    assert (found.question, found.options, found.subject) == ("What? Answer:", ("x", "y", "z"), "mine")


@pytest.mark.parametrize(
    ("options", "points"),
    [
        (["sun", "All of the above"], True),
        (["sun", "None of these"], True),
        (["sun", "A and C"], True),
        (["sun", "both A and B"], True),
        (["a cat and a dog", "the sea"], False),
        (["Vitamin A", "Vitamin C"], False),
    ],
)
def test_options_that_point_at_others_are_told(tmp_path, options, points):
    assert item(tmp_path, {"question": "What?", "choices": options}).points is points


def test_the_tokens_that_count_are_labels_options_and_what_stands_between(tiny):
    renderer = Renderer.of(ModelRef(name=str(tiny)))
    text, start = "who is the cat\nA. sun\nB. moon", 15
    (found,) = renderer.render_texts([("one", text, start)], max_length=99)
    assert renderer.decode(found.ids[found.mask]) == "A. sun\nB. moon"
    assert renderer.decode(found.ids) == text


def test_within_the_template_the_same_tokens_count(tiny):
    renderer = Renderer.of(ModelRef(name=str(tiny)))
    text = "who is the cat\nA. sun\nB. moon"
    (found,) = renderer.render_texts([("one", text, 15)], max_length=99, as_user=True)
    assert renderer.decode(found.ids[found.mask]) == "A. sun\nB. moon"
    assert renderer.decode(found.ids).startswith("<|im_start|>user\nwho")


def test_orders_in_one_tree_have_the_sums_of_single_passes(tiny, tmp_path):
    found = item(tmp_path, rows_of(1)[0])
    texts = [found.text(order) for order in found.orders(None)]
    model = LanguageModel(ModelRef(name=str(tiny), dtype="float32"))
    rendered = model.renderer.render_texts(
        [(str(place), *text) for place, text in enumerate(texts)], max_length=99
    )
    alone = [model.nll([each])[0] for each in rendered]
    given = text_model(str(tiny), EXACT)
    together = given.likelihoods(texts, store=Store(tmp_path / "store"), label="orders")
    tokens = [int(each.mask.sum()) for each in rendered]
    assert [each.tokens for each in together] == tokens
    np.testing.assert_allclose([each.nll for each in together], alone, atol=1e-4 * max(tokens))


def test_orders_of_long_options_are_a_tree_of_sixty_four():
    """Options of 20 tokens behind a question of 50: 4 + 12 + 24 + 24 of them are computed, and the question once."""
    rng = np.random.default_rng(0)
    question, *options = rng.integers(0, 900, (50,)), *rng.integers(0, 900, (4, 20))
    from learnable.types import Rendered

    rows = [
        Rendered(
            id=str(order),
            ids=np.concatenate([question, *(options[place] for place in order)]).astype(np.int32),
            mask=np.arange(130) >= 50,
            truncated=False,
        )
        for order in permutations(range(4))
    ]
    assert packed(rows).computed == 50 + 64 * 20


def test_the_command_writes_tables_and_a_page(asked, benchmark):
    done = asked(benchmark, detecting=Detecting(truth="seen"))
    frame = pl.read_parquet(done.folder / "items.parquet")
    assert frame.height == 8
    assert frame["counted"].all()
    for row in frame.iter_rows(named=True):
        sums = row["sums"]
        assert len(sums) == math.factorial(4)
        assert row["rank"] == 1 + sum(each >= sums[0] for each in sums[1:])
        assert row["difference"] == pytest.approx(row["level"] - row["reference_level"])
    subjects = pl.read_parquet(done.folder / "subjects.parquet")
    assert subjects["subject"].to_list() == ["left", "right"]
    assert "area under the curve" in done.facts
    assert "Was it trained on?" in (done.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "how",
    [
        Detecting(scenario="shuffled"),
        Detecting(by="ngram"),
        Detecting(rendering="chat"),
        Detecting(orders="5"),
    ],
    ids=["shuffled", "ngram", "chat", "five orders"],
)
def test_every_way_gives_a_verdict(asked, benchmark, how):
    done = asked(benchmark, detecting=how)
    assert done.facts["verdict"].startswith(("no leak seen", "a leak, or only"))


def test_a_second_run_costs_no_pass(asked, benchmark, monkeypatch):
    asked(benchmark)
    monkeypatch.setattr(LocalTexts, "_opened", lambda *_: pytest.fail("the model was opened"))
    again = asked(benchmark, output="again", detecting=Detecting(scenario="shuffled"))
    assert again.ran


def test_a_killed_run_goes_on(tiny, tmp_path, monkeypatch):
    rows = written(tmp_path / "items.jsonl", rows_of(12))
    words = [
        "leakage",
        rows,
        "--model",
        str(tiny),
        "--dtype",
        "float32",
        "--batch-tokens",
        "64",
        "-o",
        "leak",
    ]
    process = at_work(words, tmp_path, OFTEN)
    parts = tmp_path / "runs" / "store"
    deadline = time.monotonic() + 120
    while not list(parts.glob("nll-*/*.parquet")) and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    (folder,) = parts.glob("nll-*")
    stored = pl.read_parquet(sorted(folder.glob("*.parquet")))
    assert 0 < stored.height < 12 * 24
    asked_for = []
    kept = keep.fill

    def counted(measures, ids, ask, **how):
        def noted(missing):
            asked_for.append(len(missing))
            return ask(missing)

        return kept(measures, ids, noted, **how)

    monkeypatch.setattr("learnable.measures.passes.fill", counted)
    monkeypatch.chdir(tmp_path)
    done = leakage(rows, model=str(tiny), loading=Loading(dtype="float32", batch_tokens=64), output="leak")
    assert asked_for == [12 * 24 - stored.height]
    unbroken = leakage(
        rows,
        model=str(tiny),
        loading=Loading(dtype="float32", batch_tokens=64),
        store="other",
        output="whole",
    )
    frames = [pl.read_parquet(each.folder / "items.parquet") for each in (done, unbroken)]
    assert frames[0].equals(frames[1], null_equal=True)


def test_close_orders_are_measured_again_in_float32(tiny, tmp_path, benchmark, monkeypatch):
    monkeypatch.setattr("learnable.commands.leak_search.CLOSE", 1e9)
    given = {"model": str(tiny), "store": str(tmp_path / "store")}
    rounded = leakage(benchmark, loading=Loading(dtype="bfloat16"), output=str(tmp_path / "one"), **given)
    exact = leakage(benchmark, loading=EXACT, output=str(tmp_path / "two"), **given)
    sums = [pl.read_parquet(each.folder / "items.parquet")["sums"].to_list() for each in (rounded, exact)]
    np.testing.assert_allclose(*sums, rtol=1e-6)


def test_items_that_cannot_be_asked_are_counted_and_those_that_point_are_left_out(asked, tmp_path):
    rows = rows_of(8)
    rows[0]["choices"] = ["sun"]
    rows[1]["choices"] = ["sun", "sun", "sea"]
    rows[2]["choices"][3] = "all of the above"
    rows[3]["question"] = "the cat " * 300
    done = asked(written(tmp_path / "some.jsonl", rows))
    frame = pl.read_parquet(done.folder / "items.parquet")
    assert frame["refused"].to_list()[:3] == [
        "it has fewer than 2 options",
        "two of its options are the same",
        None,
    ]
    assert frame["counted"].to_list() == [False] * 4 + [True] * 4
    assert frame["why"][3] == "it is longer than the model takes"
    assert (
        done.facts["items left out of the verdict"] == "2 refused, 1 point at other options, 1 not measured"
    )


def test_items_of_two_three_and_five_options_in_one_file(asked, tmp_path):
    rows = [row for options in (2, 3, 5) for row in rows_of(2, options=options, seed=options)]
    done = asked(written(tmp_path / "some.jsonl", rows))
    frame = pl.read_parquet(done.folder / "items.parquet")
    assert [len(each) for each in frame["sums"]] == [2, 2, 6, 6, 24, 24]


def test_a_dry_run_says_what_it_costs_and_what_is_stored(asked, benchmark):
    planned = asked(benchmark, reference=None, dry_run=True)
    assert planned.price.rows == 8 * 24
    asked(benchmark, reference=None)
    assert asked(benchmark, reference=None, output="other", dry_run=True).price.rows == 0


def test_the_reference_of_an_adapter_is_its_base(tiny, benchmark, tmp_path):
    from learnable.commands import load, train
    from learnable.settings import Reference
    from learnable.testing import toy_examples, write_messages

    pool = load(
        [str(write_messages(toy_examples(8), tmp_path / "rows.jsonl"))], output=str(tmp_path / "pool")
    )
    trained = train(
        [pool.path],
        model=str(tiny),
        loading=EXACT,
        reference=Reference(rank=2),
        output=str(tmp_path / "trained"),
    )
    done = leakage(
        benchmark,
        model=str(tiny),
        adapter=trained.path,
        loading=EXACT,
        store=str(tmp_path / "store"),
        output=str(tmp_path / "leak"),
    )
    assert "the reference" in done.facts["verdict"]


@pytest.mark.parametrize(
    ("completion", "option", "share"),
    [
        ("the big cat", "the big cat", 1.0),
        ("The BIG cat. And more", "the big cat", 1.0),
        ("a big cat", "the big cat", 2 / 3),
        ("", "the big cat", 0.0),
        ("sun moon", "the big cat", 0.0),
        ("+ 3", "+", 1.0),
    ],
)
def test_how_much_of_an_option_is_reproduced(completion, option, share):
    assert reproduced(completion, option) == pytest.approx(share)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "q", "choices": ["x"]}], "1 x it has fewer than 2 options"),
        ([{"instruction": "q\n\nAnswer format: true/false"}], "labels without texts"),
        ([{"question": "q"}], "no choices"),
        ([{"question": "q", "choices": [str(n) for n in range(11)]}], "more than 10 options"),
    ],
    ids=["one option", "labels", "no options", "eleven"],
)
def test_what_is_no_benchmark_is_refused(tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        choice_items(written(tmp_path / "bad.jsonl", rows))


def test_nine_options_have_too_many_orders_for_all(tmp_path):
    path = written(tmp_path / "nine.jsonl", [{"question": "q", "choices": [str(n) for n in range(9)]}])
    with pytest.raises(DataError, match="give --orders 24"):
        choice_items(path, most=None)


def test_a_truth_that_is_none_is_refused(tmp_path, benchmark):
    with pytest.raises(DataError, match="neither true nor false"):
        choice_items(benchmark, truth="subject")


@pytest.mark.parametrize(
    "settings",
    [
        {"orders": "1"},
        {"orders": "some"},
        {"option": "{option}"},
        {"confidence": 1.0},
        {"by": "ngram", "scenario": "shuffled"},
    ],
    ids=["one order", "no number", "no label", "confidence", "scenario"],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(UsageError):
        Detecting(**settings)


def test_a_model_is_no_reference_of_itself(asked, benchmark, tiny):
    with pytest.raises(UsageError, match="the model itself"):
        asked(benchmark, reference=str(tiny))


@pytest.mark.parametrize(
    ("names", "said"),
    [({"model"}, "nothing was compared with"), ({"model", "reference"}, "was trained on items")],
    ids=["alone", "reference"],
)
def test_the_heading_claims_a_training_only_beside_something_else(names, said):
    facts = SimpleNamespace(verdict=SimpleNamespace(leaked=True), names=dict.fromkeys(names, "x"))
    assert said in headline(facts)


def test_clean_items_are_others(asked, benchmark):
    with pytest.raises(UsageError, match="8 items"):
        asked(benchmark, clean=benchmark)


def test_clean_items_take_the_place_of_chance(asked, benchmark, tmp_path):
    clean = written(tmp_path / "clean.jsonl", rows_of(8, seed=9))
    done = asked(benchmark, clean=clean, reference=None)
    assert "items that the model was not trained on" in done.facts["verdict"]


def test_a_whole_model_is_no_adapter(tiny, other):
    with pytest.raises(ModelError, match="not an adapter"):
        text_model(str(tiny), EXACT, adapter=str(other))


def test_the_command_line(benchmark, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["leakage", benchmark, "--model", str(tiny), "--dtype", "float32", "--scenario", "shuffled"]
    assert cli.call(words) == 0
    assert "verdict: " in capsys.readouterr().out
    assert cli.call([*words, "--orders", "none"]) == 2
