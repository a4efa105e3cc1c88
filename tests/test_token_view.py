"""Tokens with their losses: no character is torn, the figures are the model's, and they cost no second pass."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from learnable.cli import app as cli
from learnable.cli import printing
from learnable.commands import load, report, score, select, show, train
from learnable.commands.show import ExampleView, Shown
from learnable.errors import ModelError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.objects import passes
from learnable.objects.passes import Passes
from learnable.pages import examples_to_spell
from learnable.pages.selection import render_selection as render
from learnable.pages.tokens import Piece, TokenView, scale, step, token_view
from learnable.runs.store import Store
from learnable.settings import Loading, Reference
from learnable.testing import tiny_model, toy_examples, write_messages
from learnable.training import Part, References
from learnable.types import Example, Message, ModelRef
from test_reporting import EVIL, Page, make_facts

ROWS, LONGEST = 12, 256
FLOAT32 = Loading(dtype="float32")


def view_of_text(text, offsets, *, masked=0, before, after=None):
    spans = np.asarray(offsets, dtype=np.int64)
    mask = np.arange(len(offsets)) >= masked
    losses = [None if each is None else np.asarray(each, dtype=np.float32) for each in (before, after)]
    return token_view("id", text, spans, mask, before=losses[0], after=losses[1])


# ---------------------------------------------------------------- pieces


def test_tokens_of_one_character_make_one_piece_with_the_sum_of_their_losses():
    view = view_of_text("a好b", [(0, 1), (1, 2), (1, 2), (2, 3)], before=[1, 2, 3, 4], after=[1, 1, 1, 1])
    assert [(p.text, p.tokens, p.before, p.learned) for p in view.pieces] == [
        ("a", 1, 1.0, 0.0),
        ("好", 2, 5.0, 3.0),
        ("b", 1, 4.0, 3.0),
    ]
    assert view.mean("before") == 10 / 4


def test_text_that_no_token_stands_for_is_not_lost():
    view = view_of_text("  a b  ", [(2, 3), (4, 5)], masked=1, before=[1])
    assert [(p.text, p.kind) for p in view.pieces] == [("  a", "masked"), (" b", "scored"), ("  ", "masked")]


@pytest.mark.parametrize("longest", [200, 37, 38, 39])
def test_no_character_is_torn_wherever_a_text_is_cut(tiny, longest):
    text = "Grüße 你好 👩‍👩‍👧 naïve\n\n  e\u0301"
    renderer = Renderer.of(ModelRef(name=str(tiny)))
    example = Example(
        id="x",
        messages=(Message(role="user", content=text), Message(role="assistant", content=text)),
        source="s",
    )
    (rendered,) = renderer.render([example], max_length=longest)
    whole = renderer.text(example.messages)
    offsets = renderer.tokenizer(whole, return_offsets_mapping=True)["offset_mapping"]
    losses = np.ones(int(rendered.mask.sum()), dtype=np.float32)
    view = token_view("x", whole, np.asarray(offsets), rendered.mask, before=losses)
    assert "".join(piece.text for piece in view.pieces) == whole
    assert sum(piece.before for piece in view.scored) == len(losses)
    assert sum(piece.tokens for piece in view.scored) == len(losses)


def test_a_figure_on_an_edge_belongs_to_the_higher_step():
    assert [step(nats, "before") for nats in (0.0, 0.49, 0.5, 8.0, 99.0, None)] == [0, 0, 1, 5, 5, 0]
    assert [step(nats, "learned") for nats in (-9, -1.0, -0.2, 0.0, 0.25, 4)] == [-4, -2, 0, 0, 1, 4]


@pytest.mark.parametrize("by", ["before", "after", "learned"])
def test_the_legend_has_every_step_once(by):
    seen = sorted({step(nats, by) for nats in np.arange(-12, 12, 0.05) if by == "learned" or nats >= 0})
    assert [number for number, _ in scale(by)] == seen


# ---------------------------------------------------------------- measured


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """Return the folder of a finished run, from rows to selection, in which each command was given nothing special."""
    folder = tmp_path_factory.mktemp("run")
    write_messages(toy_examples(ROWS), folder / "mine.jsonl")
    model = {"model": str(tiny), "loading": FLOAT32}
    load([str(folder / "mine.jsonl")], output=str(folder / "pool"))
    quick = Reference(learning_rate=0.01, batch_size=4)
    train([str(folder / "pool")], reference=quick, output=str(folder / "reference"), **model)
    score(
        [str(folder / "pool")],
        reference=str(folder / "reference"),
        store=str(folder / "store"),
        output=str(folder / "scores"),
        **model,
    )
    select(str(folder / "scores"), budget="5", output=str(folder / "selection"))
    return folder


@pytest.fixture
def shown(run, tiny, tmp_path):
    """Return the words of a command that shows examples of the run."""
    model = ["--model", str(tiny), "--dtype", "float32"]
    return ["show", str(run / "pool"), *model, "--store", str(tmp_path / "store")]


def table(text):
    """Return the lines of a table as (token, figures), without its head."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    return [
        (json.loads(line[: line.rindex('"') + 1]), line[line.rindex('"') + 1 :].split()) for line in lines
    ]


def test_the_table_has_the_losses_of_the_model(shown, tiny, capsys):
    assert cli.call([*shown, "--n", "1", "--losses"]) == 0
    network = LanguageModel(ModelRef(name=str(tiny), dtype="float32"))
    rendered = network.renderer.render(toy_examples(1), max_length=LONGEST)
    rows = table(capsys.readouterr().out)
    assert "".join(token for token, _ in rows) == toy_examples(1)[0].messages[1].content + "<|im_end|>"
    expected = network.token_nll(rendered)[0]
    np.testing.assert_allclose([float(figures[0]) for _, figures in rows], expected, atol=6e-4)


def test_what_was_learned_is_before_minus_after(shown, run, capsys):
    assert cli.call([*shown, "--n", "2", "--reference", str(run / "reference")]) == 0
    said = capsys.readouterr().out
    figures = np.array([figures for _, figures in table(said)], dtype=float)
    np.testing.assert_allclose(figures[:, 0] - figures[:, 1], figures[:, 2], atol=2e-3)
    assert np.abs(figures[:, 2]).max() > 0.1
    scores = pl.read_parquet(run / "scores" / "scores.parquet").row(0, named=True)
    means = re.search(r"loss (\d+\.\d{3}) → (\d+\.\d{3}) nats per token", said)
    np.testing.assert_allclose(
        [float(mean) for mean in means.groups()], [scores["loss_before"], scores["loss_after"]], atol=2e-3
    )


def test_the_document_has_the_tokens_and_figures_of_the_table(shown, run, capsys):
    shown = [*shown, "--n", "2", "--reference", str(run / "reference")]
    assert cli.call(shown) == 0
    said = capsys.readouterr().out
    assert cli.call([*shown, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"model", "reference", "losses", "max_length", "examples"}
    scored = [piece for each in document["examples"] for piece in each["pieces"] if piece["kind"] == "scored"]
    figures = [[f"{piece[by]:.3f}" for by in ("before", "after", "learned")] for piece in scored]
    assert table(said) == [(piece["text"], numbers) for piece, numbers in zip(scored, figures, strict=True)]
    heads = [
        f"── {each['id'][:12]} from {each['source']}: {each['response_tokens']} scored tokens, "
        f"loss {each['loss_before']:.3f} → {each['loss_after']:.3f} nats per token"
        for each in document["examples"]
    ]
    assert [line for line in said.splitlines() if line.startswith("──")] == heads


@pytest.mark.parametrize("losses", [[], ["--losses"]], ids=["spans", "losses"])
def test_the_document_counts_what_is_cut_off_the_same_with_losses_and_without(shown, capsys, losses):
    assert cli.call([*shown, "--n", "1", "--max-length", "33", "--json", *losses]) == 0
    (example,) = json.loads(capsys.readouterr().out)["examples"]
    counts = [example[name] for name in ("tokens", "response_tokens", "cut_tokens")]
    of_kind = {
        kind: sum(piece["tokens"] for piece in example["pieces"] if piece["kind"] == kind)
        for kind in ("scored", "cut")
    }
    assert counts == [43, 4, 10]
    assert [of_kind["scored"], of_kind["cut"]] == counts[1:]
    assert [piece["before"] is None for piece in example["pieces"] if piece["kind"] == "scored"] == (
        [False] * 4 if losses else [True]
    )


def test_what_is_undefined_is_null_in_the_document():
    broken = Piece(text="a", kind="scored", before=float("nan"), after=1.0)
    view = ExampleView(id="x", source="s", tokens=1, response_tokens=1, cut_tokens=0, pieces=(broken,))
    told = Shown(model="m", reference="r", losses=True, max_length=9, examples=(view,))
    (example,) = json.loads(json.dumps(printing.document(told), allow_nan=False))["examples"]
    assert (example["loss_before"], example["loss_after"]) == (None, 1.0)
    assert example["pieces"] == [
        {"text": "a", "kind": "scored", "tokens": 1, "before": None, "after": 1.0, "learned": None}
    ]


def test_in_python_nothing_is_printed_and_the_result_reads_as_the_command_prints(
    run, tiny, capsys, monkeypatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = show([str(run / "pool")], model=str(tiny), n=1)
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("FORCE_COLOR")
    assert cli.call(["show", str(run / "pool"), "--model", str(tiny), "--n", "1"]) == 0
    assert f"{result}" == capsys.readouterr().out


def test_colours_and_a_legend_are_for_terminals_that_show_them(shown, run, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = [*shown, "--n", "1", "--reference", str(run / "reference")]
    assert cli.call(shown) == 0
    coloured = capsys.readouterr().out
    assert "\x1b[38;5;" in coloured
    assert all(legend in coloured for legend in ("loss before", "loss after", "learned, before minus after"))
    assert "\N{MINUS SIGN}4 or less" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.call(shown) == 0
    assert len(table(capsys.readouterr().out)) > 1


def test_each_example_is_read_by_the_part_that_did_not_train_on_it(tiny, tmp_path):
    import peft

    names = []
    for number in range(2):
        network = LanguageModel(ModelRef(name=str(tiny), dtype="float32")).network
        worn = peft.get_peft_model(
            network, peft.LoraConfig(init_lora_weights=False, target_modules=["q_proj"])
        )
        worn.save_pretrained(tmp_path / str(number))
        names.append(str(tmp_path / str(number)))
    examples = toy_examples(2)
    parts = tuple(Part(name=name, kind="adapter") for name in names)
    ids = [example.id for example in examples]

    def after(*assigned):
        assignment = pl.DataFrame(
            {"id": ids[: len(assigned)], "part": list(assigned)}, schema_overrides={"part": pl.Int64}
        )
        references = References(parts=parts, assignment=assignment)
        store = Store(tmp_path / f"store-{len(assigned)}{assigned}")
        ref = ModelRef(name=str(tiny), dtype="float32")
        views = Passes(ref, references, max_length=LONGEST, store=store).views(examples)
        return [view.mean("after") for view in views]

    crossed, straight = after(1, 0), after(0, 1)
    assert abs(crossed[0] - straight[0]) > 1e-3
    assert after() == pytest.approx([straight[0], crossed[1]], abs=1e-5)


def test_a_reference_with_another_tokenizer_is_refused(tiny, tmp_path):
    other = tiny_model(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    references = References(
        parts=(Part(name=str(other), kind="model"),),
        assignment=pl.DataFrame(schema={"id": pl.String, "part": pl.Int64}),
    )
    losses = Passes(
        ModelRef(name=str(tiny), dtype="float32"),
        references,
        max_length=LONGEST,
        store=Store(tmp_path / "store"),
    )
    with pytest.raises(ModelError, match="another tokenizer"):
        losses.views(toy_examples(1))


def test_what_a_scorer_measured_by_token_is_not_measured_again(run, tiny, tmp_path, monkeypatch):
    scored = {"model": str(tiny), "loading": FLOAT32, "store": str(tmp_path / "store")}
    score([str(run / "pool")], scorers=["top_share_ifd"], output=str(tmp_path / "ifd"), **scored)
    monkeypatch.setattr(passes, "opened", None)
    losses = Passes(
        ModelRef(name=str(tiny), dtype="float32"), None, max_length=LONGEST, store=Store(tmp_path / "store")
    )
    assert losses.views(toy_examples(ROWS))[3].mean("before") > 0
    assert losses.tokens == 0


def test_no_examples_are_refused(shown, capsys):
    assert cli.call([*shown, "--n", "0"]) == 2
    assert "n must be at least 1" in capsys.readouterr().err


# ---------------------------------------------------------------- report


def reported(run, folder, **more):
    outcome = report(str(run / "selection"), store=str(run / "store"), output=str(folder), **more)
    return outcome, Page((folder / "report.html").read_text("utf-8"))


def tables_of(page):
    return {caption: rows for caption, rows in page.tables.items() if caption.startswith("Loss in nats")}


def test_a_report_has_the_chosen_first_and_one_that_was_left_out(run, tmp_path):
    outcome, page = reported(run, tmp_path / "page")
    kept = pl.read_parquet(run / "selection" / "kept.parquet").sort("rank")["id"].to_list()
    shown = [caption.split()[-1] for caption in tables_of(page)]
    assert shown[:2] == [id[:8] for id in kept[:2]]
    assert len(shown) == 4
    assert shown[3] not in [id[:8] for id in kept]
    assert outcome.cost.tokens > 0


def test_the_figures_of_a_report_are_those_of_the_scores(run, tmp_path):
    _, page = reported(run, tmp_path / "page", tokens=1)
    ((caption, rows),) = tables_of(page).items()
    scores = pl.read_parquet(run / "scores" / "scores.parquet")
    mine = scores.filter(pl.col("id").str.starts_with(caption.split()[-1])).row(0, named=True)
    assert rows[0] == ["token", "before", "after", "learned"]
    figures = np.array([[float(cell.replace("\N{MINUS SIGN}", "-")) for cell in row[1:]] for row in rows[1:]])
    assert len(figures) == mine["response_tokens"]
    np.testing.assert_allclose(
        figures[:, :2].mean(axis=0), [mine["loss_before"], mine["loss_after"]], atol=2e-3
    )


def test_a_second_report_measures_nothing(run, tmp_path, monkeypatch):
    reported(run, tmp_path / "first")
    monkeypatch.setattr(passes, "opened", None)
    outcome, page = reported(run, tmp_path / "second", title="again")
    assert outcome.cost.tokens == 0
    assert len(tables_of(page)) == 4


def test_a_report_can_do_without_tokens(run, tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "opened", None)
    _, page = reported(run, tmp_path / "page", tokens=0)
    assert "Which words" not in page.plain


@pytest.fixture
def moved(run, tmp_path):
    """Return a copy of the run that can be spoiled, and how to spoil what a step wrote down."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)

    def spoil(step_name, part, **fields):
        path = folder / step_name / "step.json"
        record = json.loads(path.read_text())
        record[part] |= fields
        path.write_text(json.dumps(record))

    return folder, spoil


def test_a_report_is_made_without_a_model_that_is_gone(moved, tmp_path):
    folder, spoil = moved
    spoil("scores", "facts", model=str(tmp_path / "gone"))
    _, page = reported(folder, tmp_path / "page")
    assert f"No losses by token: there is no model '{tmp_path / 'gone'}'" in page.plain
    assert "5 of 12 examples chosen" in page.plain


def test_another_model_of_the_same_name_is_not_taken_for_it(moved, tmp_path):
    folder, spoil = moved
    spoil("scores", "inputs", base="another")
    _, page = reported(folder, tmp_path / "page")
    assert "is not the one that was scored with" in page.plain


def test_a_report_is_made_without_a_reference_that_is_gone(moved, tmp_path):
    folder, _ = moved
    shutil.rmtree(folder / "reference")
    _, page = reported(folder, tmp_path / "page")
    assert "No losses by token: there is no folder" in page.plain
    assert "its folder is not there any more" in page.plain


def test_a_reference_that_was_given_leaves_the_loss_before(moved, tmp_path):
    folder, _ = moved
    record = json.loads((folder / "scores" / "step.json").read_text())
    del record["links"]["reference"]
    (folder / "scores" / "step.json").write_text(json.dumps(record))
    _, page = reported(folder, tmp_path / "page")
    assert "it is not known where the reference lies" in page.plain
    assert next(iter(tables_of(page).values()))[0] == ["token", "before"]


@pytest.mark.parametrize(
    ("verb", "tokens", "said"), [("select", -1, "0 or more"), ("compare", 2, "no effect")]
)
def test_a_number_of_examples_that_means_nothing_is_refused(moved, tmp_path, verb, tokens, said):
    folder, _ = moved
    record = json.loads((folder / "selection" / "step.json").read_text())
    (folder / "selection" / "step.json").write_text(json.dumps(record | {"verb": verb}))
    with pytest.raises(UsageError, match=said):
        reported(folder, tmp_path / "page", tokens=tokens)


# ---------------------------------------------------------------- page


def piece(text, before=3.0, after=1.0, kind="scored"):
    scored = {"before": before, "after": after} if kind == "scored" else {}
    return Piece(text=text, kind=kind, **scored)


@pytest.fixture(scope="module")
def facts():
    made = make_facts()
    ids = made.kept["id"].to_list()
    evil = TokenView(id=ids[0], pieces=(piece(EVIL, kind="masked"), piece(EVIL), piece("\n", 0.1, 5.0)))
    long = TokenView(id=ids[1], pieces=tuple(piece(f"w{number} ") for number in range(450)))
    return replace(made, tokens=[evil, long])


@pytest.fixture(scope="module")
def page(facts):
    return Page(render(facts))


def test_texts_of_tokens_stay_texts(page):
    assert "<script>window.hacked" not in page.html
    assert "<img src=x" not in page.html
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    titles = [attrs["title"] for tag, attrs in page.tags if tag == "span" and "title" in attrs]
    assert titles[0].startswith(f"“{EVIL}” before 3.000 · after 1.000 · learned 2.000")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_what_was_learned_is_said_in_words(page):
    assert f"Most was learned on “{EVIL.strip()}” (2.00), in nats. It got worst on “↵” (−4.90)." in page.plain


def test_what_is_left_out_of_a_long_example_is_said(page):
    assert "… and 50 more scored tokens, not in this page" in page.plain
    assert [len(rows) for rows in tables_of(page).values()] == [3, 401]


def test_losses_that_were_measured_otherwise_are_remarked(facts):
    view = TokenView(id=facts.kept["id"][0], pieces=(piece("a", 3.0, 99.0),))
    assert "those were measured otherwise" in Page(render(replace(facts, tokens=[view]))).plain


def test_examples_are_taken_from_the_top_the_middle_and_the_bottom(facts):
    ranked = facts.scored.sort("merit", "id", descending=[True, False])["id"].to_list()
    kept = facts.kept["id"].to_list()
    assert examples_to_spell(facts, 1) == kept[:1]
    assert examples_to_spell(facts, 2) == [kept[0], ranked[-1]]
    four = examples_to_spell(facts, 4)
    assert [four[0], four[1], four[3]] == [*kept[:2], ranked[-1]]
    assert abs(ranked.index(four[2]) - len(ranked) // 2) <= 2


def test_nothing_is_shown_twice_where_everything_was_kept(facts):
    everything = facts.scored.select("id", rank=pl.int_range(pl.len()), gain="learnability")
    facts = replace(facts, kept=everything, dropped=facts.dropped.clear())
    assert len(set(examples_to_spell(facts, 400))) == len(examples_to_spell(facts, 400)) == everything.height


# ---------------------------------------------------------------- browser


def test_the_switch_needs_no_script(facts, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    file = Path(tmp_path / "report.html")
    file.write_text(render(facts), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 800})
        opened = context.new_page()
        opened.goto(file.as_uri())
        worse = opened.locator(".words .token").nth(1)
        colour = "getComputedStyle(each).backgroundColor"
        seen = {}
        for by in ("before", "after", "learned"):
            opened.get_by_label(by, exact=True).check()
            seen[by] = worse.evaluate(f"each => {colour}")
            assert opened.locator(".scale:visible").count() == 1
            assert opened.locator(f".scale.{by}").is_visible()
        assert len(set(seen.values())) == 3
        assert seen["before"].endswith("/ 0)")
        worse.focus()
        said = worse.evaluate("each => getComputedStyle(each, '::after').content")
        assert "learned −4.900 nats" in said
        assert opened.evaluate("document.documentElement.scrollWidth") == 390
        browser.close()
