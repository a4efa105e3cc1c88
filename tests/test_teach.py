"""A task taught in several ways on a tiny model: what comes out, what is not done twice, and what is refused."""

import json
import signal
import time
from dataclasses import fields, replace

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnable import commands as verbs
from learnable.cli import app as cli
from learnable.commands.teach import Teaching
from learnable.errors import LearnableError, SelectionError, UsageError
from learnable.mixing import Mixing
from learnable.models.language_model import LanguageModel
from learnable.runs.identity import example_id
from learnable.settings import Loading, Tuning
from learnable.testing import toy_examples, write_messages
from learnable.types import Message, ModelRef
from processes import at_work

ROWS, TRAINED, TESTED, SEEDS = 20, 16, 4, 2
ASK = "Answer in <sep>."
REWRITES = ("Give me <sep> now.", "Do <sep>, please.", "Use <sep> here.", "The <sep> way.")
ARMS = ("untuned", "common", "delia", "dmt")
TUNING = Tuning(learning_rate=0.02, batch_size=8, rank=2)
FLOAT = Loading(dtype="float32")
TEACHING = [field.name for field in fields(Teaching)]
EVALUATIONS = ["format@max_new_tokens=4", "heldout"]


def task_row(example, wording=ASK, **beside):
    asked = example.messages[0].content
    messages = [
        {"role": "user", "content": f"{asked}\n\n{wording}"},
        {"role": "assistant", "content": json.dumps({"a": example.messages[1].content})},
    ]
    return {"messages": messages, "source": "task", **beside}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def paraphrases_of(examples):
    rows = []
    for example in examples:
        parent = example_id(Message(**turn) for turn in task_row(example)["messages"])
        meta = {"parent": parent, "by": "paraphrase", "seed": 0, "original": ASK}
        rows += [task_row(example, rewrite, **meta, instruction=rewrite) for rewrite in REWRITES]
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a task, its paraphrases, a buffer, and rows of the task in other wordings."""
    folder = tmp_path_factory.mktemp("teach")
    toys = toy_examples(ROWS)
    write(folder / "task.jsonl", [task_row(each) for each in toys])
    write(folder / "paraphrases.jsonl", paraphrases_of(toys))
    write(folder / "test.jsonl", [task_row(each, "Say it in <sep>.") for each in toy_examples(4, seed=3)])
    write_messages(toy_examples(20, seed=5), folder / "buffer.jsonl")
    verbs.load([str(folder / "task.jsonl")], holdout=0.2, output=str(folder / "pool"))
    return folder


@pytest.fixture(scope="module")
def teach(place, tiny):
    """Teach with usual settings, or others, and return the outcome."""

    def run(output, **given):
        usual = {"task": [str(place / "pool")], "model": str(tiny), "loading": FLOAT, "tuning": TUNING}
        usual |= {name: str(place / f"{name}.jsonl") for name in ("paraphrases", "buffer")}
        usual |= {"arms": list(ARMS), "tokens": ["<sep>=blue sky"], "evaluate": EVALUATIONS, "seeds": 1}
        usual |= {"gradients": 4, "mixing": Mixing(ratio=0.5), "store": str(place / "store")}
        given = usual | given
        asked = {name: given.pop(name) for name in TEACHING if name in given}
        teaching = Teaching(**{name: () if value is None else value for name, value in asked.items()})
        return verbs.teach(**given, teaching=teaching, output=str(place / output))

    return run


@pytest.fixture(scope="module")
def taught(teach):
    return teach("usual", seeds=SEEDS, words=["blue", "red"])


@pytest.fixture(scope="module")
def small(teach, place):
    """Teach without a token, and with nothing to generate."""

    def run(output, **given):
        bare = {"tokens": None, "arms": ["common"], "evaluate": ["heldout"], "gradients": 0}
        bare |= {"store": str(place / "small-store")}
        return teach(output, **(bare | given))

    return run


def read(outcome, name):
    return pl.read_parquet(outcome.folder / f"{name}.parquet")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def trainings(store):
    """Return when each training in a store was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("arms/*/training.json")}


def test_the_table_has_a_line_for_each_evaluation_and_arm(taught):
    table = read(taught, "table")
    asked = [
        "format@max_new_tokens=4, unseen wording",
        "heldout, unseen wording",
        "format@max_new_tokens=4, seen wording",
        "heldout, seen wording",
        "heldout on general rows",
    ]
    assert table.select("evaluation", "arm").rows() == [(name, arm) for name in asked for arm in ARMS]
    assert table["value"].is_finite().all()
    assert taught.facts["evaluations"] == asked


def test_differences_are_to_common_tuning(taught):
    table = read(taught, "table")
    assert taught.facts["baseline"] == "common"
    assert set(table.filter(pl.col("verdict").is_null())["arm"]) == {"common"}


def test_every_model_is_asked_every_item(taught):
    counts = read(taught, "results").group_by("evaluation", "arm", "seed").len()
    assert set(counts.filter(pl.col("evaluation").str.contains("wording"))["len"]) == {TESTED}
    assert set(counts.filter(evaluation="heldout on general rows")["len"]) == {2}
    assert counts.height == 5 * (1 + 3 * SEEDS)


def test_an_arm_says_what_it_was_trained_on(taught):
    arms = read(taught, "arms").filter(seed=0).select("arm", "examples", "task_examples", "stages").rows()
    buffered = TRAINED // 2
    assert arms == [
        ("untuned", 0, 0, 0),
        ("common", TRAINED, TRAINED, 1),
        ("delia", TRAINED + buffered, TRAINED, 1),
        ("dmt", TRAINED + buffered + 1, TRAINED + 1, 2),
    ]


def test_the_steps_and_tokens_of_two_stages_count_together(taught):
    arms = {row["arm"]: row for row in read(taught, "arms").filter(seed=0).iter_rows(named=True)}
    assert arms["common"]["steps"] == 2
    assert arms["dmt"]["steps"] == 2 + 2
    assert arms["dmt"]["tokens"] > arms["common"]["tokens"] > arms["common"]["response_tokens"] > 0


def test_no_training_is_done_twice(taught, place):
    # Three arms and two seeds, one of two stages, whose first is that of another arm.
    first = set(read(taught, "arms")["model"].drop_nulls())
    assert len(first) == 6
    assert taught.cost.tokens == sum_of_trainings(place / "store", first)


def sum_of_trainings(store, names):
    return sum(json.loads((store / "arms" / name / "training.json").read_text())["tokens"] for name in names)


def test_training_moved_every_model(taught):
    table = read(taught, "table").filter(evaluation="heldout, seen wording")
    untuned = table.filter(arm="untuned")["value"].item()
    assert (table.filter(pl.col("arm") != "untuned")["value"] - untuned).abs().min() > 1e-3


def test_the_untuned_value_is_the_loss_of_the_model_with_its_token(taught, place):
    (base,) = (each for each in (place / "store").glob("tokens-*") if each.is_dir())
    network = LanguageModel(ModelRef(name=str(base), dtype="float32"))
    asked = toy_examples(20, seed=5)
    general = {
        tuple(turn["content"] for turn in row["messages"]) for row in lines(taught.folder / "general.jsonl")
    }
    rows = [each for each in asked if tuple(turn.content for turn in each.messages) in general]
    rendered = network.renderer.render(rows, max_length=256)
    losses = network.nll(rendered) / [each.mask.sum() for each in rendered]
    value = read(taught, "table").filter(evaluation="heldout on general rows", arm="untuned")["value"].item()
    assert len(rows) == 2
    assert value == pytest.approx(losses.mean(), abs=1e-5)


def test_rows_are_asked_in_a_wording_that_no_training_saw(taught):
    asked = {
        row["messages"][0]["content"].split("\n\n")[1]
        for row in lines(taught.folder / "unseen_wording.jsonl")
    }
    assert len(asked) == 1
    assert asked < set(REWRITES)
    (unseen,) = asked
    assert unseen not in read(taught, "wordings").filter(kind="paraphrases")["text"]
    assert read(taught, "wordings").filter(kind="unseen")["text"].to_list() == [unseen]


def test_rows_of_the_task_are_not_asked(taught, place):
    trained = pl.read_parquet(place / "pool" / "examples.parquet")["messages"].to_list()
    contents = {turns[0]["content"].split("\n\n")[0] for turns in trained}
    for name in ("seen", "unseen"):
        rows = lines(taught.folder / f"{name}_wording.jsonl")
        assert len(rows) == TESTED
        assert not contents & {row["messages"][0]["content"].split("\n\n")[0] for row in rows}


def test_the_distance_of_the_token_to_each_word_is_there_for_each_layer(taught):
    concepts = read(taught, "concepts").filter(arm="delia", seed=1)
    assert concepts.select("token", "words", "layer").rows() == [
        ("<sep>", words, layer) for words in ("blue", "red") for layer in range(3)
    ]
    assert concepts["distance"].is_finite().all()
    assert set(concepts["prompts"]) == {TESTED}


def test_training_moves_the_token(taught):
    found = read(taught, "concepts").filter(layer=0, words="blue")
    untuned = found.filter(arm="untuned")["distance"].item()
    assert (found.filter(arm="delia")["distance"] - untuned).abs().min() > 1e-4


def test_samples_are_what_each_model_wrote_to_the_first_items(taught):
    samples = read(taught, "samples")
    graded = read(taught, "results").filter(seed=0)
    assert samples.group_by("arm", "evaluation").len()["len"].to_list() == [TESTED] * 8
    assert samples["prompt"].str.contains("<sep>").all()
    both = samples.join(graded, on=["arm", "seed", "evaluation", "id"], how="left")
    assert both["value"].to_list() == both["value_right"].to_list()


def test_gradients_are_compared_for_both_forms_of_the_task(taught):
    buffering = read(taught, "buffering")
    assert buffering["wording"].unique(maintain_order=True).to_list() == ["task", "reworded"]
    assert 0.5 in buffering["ratio"].to_list()


def test_a_judge_compares_with_the_baseline_of_the_same_seed(small):
    outcome = small(
        "judged", arms=["untuned", "delia", "common"], evaluate=["test_run_compare:PrefersLonger"], seeds=2
    )
    found = read(outcome, "results").filter(pl.col("evaluation").str.contains("PrefersLonger"))
    assert set(found.filter(arm="common")["value"]) == {0.5}
    assert found.filter(arm="delia")["value"].is_in([0.0, 0.5, 1.0]).all()
    table = read(outcome, "table").filter(pl.col("evaluation").str.contains("PrefersLonger"))
    assert table.filter(arm="delia")["difference"].is_finite().all()


def test_a_second_call_does_nothing(teach, taught, place):
    before = trainings(place / "store")
    again = teach("usual", seeds=SEEDS, words=["blue", "red"])
    assert not again.ran
    assert again.facts == taught.facts
    assert trainings(place / "store") == before


def test_another_evaluation_trains_nothing(teach, taught, place):
    before = trainings(place / "store")
    other = teach("other", evaluate=["heldout", f"heldout:{place / 'buffer.jsonl'}"], gradients=0)
    assert trainings(place / "store") == before
    assert other.cost.tokens == 0
    one, two = (
        read(outcome, "results").filter(evaluation="heldout, unseen wording", seed=0)
        for outcome in (taught, other)
    )
    assert one.equals(two)
    assert read(other, "results").filter(evaluation="heldout:buffer.jsonl").height == 20 * len(ARMS)


def test_a_further_arm_trains_only_its_own(teach, taught, place):
    before = trainings(place / "store")
    teach("further", arms=[*ARMS, "leverage"], evaluate=["heldout"], gradients=0)
    after = trainings(place / "store")
    assert len(after.keys() - before.keys()) == 1
    assert {name: after[name] for name in before} == before


def test_the_order_of_the_rows_changes_nothing(teach, taught, place):
    before = trainings(place / "store")
    for name in ("task", "paraphrases", "buffer"):
        rows = lines(place / f"{name}.jsonl")
        write(place / f"{name}-backwards.jsonl", rows[::-1])
    turned = teach(
        "backwards",
        task=[str(place / "task-backwards.jsonl")],
        paraphrases=str(place / "paraphrases-backwards.jsonl"),
        buffer=str(place / "buffer-backwards.jsonl"),
        seeds=SEEDS,
        words=["blue", "red"],
    )
    assert trainings(place / "store") == before
    assert turned.identity == taught.identity
    assert read(turned, "table").equals(read(taught, "table"))


def test_a_test_file_is_asked_as_it_is(teach, taught, place):
    rows = str(place / "test.jsonl")
    outcome = teach("tested", test=rows, arms=["common"], evaluate=["heldout"], gradients=0)
    asked = lines(outcome.folder / "unseen_wording.jsonl")
    assert sorted(row["messages"][0]["content"] for row in asked) == sorted(
        row["messages"][0]["content"] for row in lines(place / "test.jsonl")
    )
    assert {
        row["messages"][0]["content"].split("\n\n")[1] for row in lines(outcome.folder / "seen_wording.jsonl")
    } == {ASK}
    assert not outcome.facts["notes"]


def test_a_test_file_without_the_instruction_says_so(small, place):
    rows = [task_row(each) for each in toy_examples(3, seed=3)]
    for row in rows:
        row["messages"][0]["content"] = row["messages"][0]["content"].split("\n\n")[0]
    bare = write(place / "bare.jsonl", rows)
    outcome = small("bare", test=str(bare))
    assert any("could not be told from their content" in note for note in outcome.facts["notes"])
    assert not (outcome.folder / "seen_wording.jsonl").exists()
    assert len(lines(outcome.folder / "unseen_wording.jsonl")) == 3


def test_tables_keep_their_columns_where_nothing_is_in_them(small, taught):
    outcome = small("plain")
    for name in ("table", "arms", "results", "concepts", "samples"):
        assert read(outcome, name).schema == read(taught, name).schema
    assert (read(outcome, "concepts").height, read(outcome, "samples").height) == (0, 0)


def test_a_token_without_a_meaning_is_compared_with_nothing(small):
    outcome = small("meaningless", tokens=["<sep>"], init="mean")
    assert read(outcome, "concepts").height == 0


def test_rows_of_a_random_token_differ_between_seeds_also_untuned(small):
    outcome = small("random", tokens=["<sep>=blue"], arms=["untuned", "common"], init="random", seeds=2)
    values = read(outcome, "concepts").filter(arm="untuned", layer=0)["distance"]
    assert values.n_unique() == 2


@pytest.fixture(scope="module")
def tied(tiny, tmp_path_factory):
    """Return a tiny model with one embedding for input and output, as most small models have."""
    folder = tmp_path_factory.mktemp("tied")
    network = AutoModelForCausalLM.from_pretrained(tiny)
    network.config.tie_word_embeddings = True
    network.tie_weights()
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def logits(network, tokenizer):
    ids = tokenizer("what is the <sep> of blue", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return network(ids).logits


@pytest.mark.parametrize("model", ["tiny", "tied"])
def test_the_model_loads_in_plain_transformers_and_gives_the_logits_of_the_trained_one(
    small, place, model, request
):
    given = {"model": str(request.getfixturevalue(model)), "tokens": ["<sep>=blue sky"]}
    outcome = small(f"whole-{model}", **given, arms=["common", "delia"])
    tokenizer = AutoTokenizer.from_pretrained(outcome.folder / "model")
    assert tokenizer.tokenize("<sep>") == ["<sep>"]
    plain = AutoModelForCausalLM.from_pretrained(outcome.folder / "model")
    arm = read(outcome, "arms").filter(arm="delia")["model"].item()
    adapter = place / "small-store" / "arms" / arm
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    worn = LanguageModel(ModelRef(name=base, dtype="float32", device="cpu"))
    before = logits(worn.network, worn.renderer.tokenizer)
    with worn.adapter(adapter):
        expected = logits(worn.network, worn.renderer.tokenizer)
    torch.testing.assert_close(logits(plain, tokenizer), expected, atol=1e-5, rtol=1e-5)
    assert (before - expected).abs().max() > 1e-3
    assert outcome.facts["kept model"] == "delia"


def test_a_whole_model_can_be_trained(small, place):
    whole = Tuning(method="full", learning_rate=1e-3, batch_size=8)
    given = {"tokens": ["<sep>=blue sky"], "arms": ["untuned", "dmt"]}
    outcome = small("full", **given, tuning=whole)
    plain = AutoModelForCausalLM.from_pretrained(outcome.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(outcome.folder / "model")
    trained = place / "small-store" / "arms" / read(outcome, "arms").filter(arm="dmt")["model"].item()
    expected = logits(AutoModelForCausalLM.from_pretrained(trained), tokenizer)
    torch.testing.assert_close(logits(plain, tokenizer), expected)
    values = read(outcome, "table").filter(evaluation="heldout, seen wording")["value"]
    assert abs(values[0] - values[1]) > 1e-3
    assert not (outcome.folder / "model" / "training.json").exists()


def test_a_dry_run_tells_the_price_and_leaves_nothing(teach, place, monkeypatch):
    teach("dry", arms=[*ARMS, "repeated"], seeds=3, dry_run=True)  # times the model
    monkeypatch.setattr(LanguageModel, "__init__", lambda *_: pytest.fail("a model was loaded"))
    before = sorted(place.rglob("*"))
    planned = teach("dry", arms=[*ARMS, "repeated"], seeds=3, dry_run=True)
    assert sorted(place.rglob("*")) == before
    assert not planned.ran
    assert (
        min(planned.price.tokens, planned.price.seconds, planned.price.peak_gib, planned.price.disk_gib) > 0
    )
    assert planned.facts["would run"] == [
        f"3 trainings of common on {TRAINED} examples",
        f"3 trainings of delia on {TRAINED + TRAINED // 2} examples",
        f"3 trainings of dmt on {TRAINED + TRAINED // 2 + 1} examples",
        "3 trainings of repeated on as many tokens as delia",
        "18 evaluation items for each model",
    ]


@pytest.mark.parametrize(
    ("lacking", "arm"),
    [
        ((), "delia"),
        (("buffer",), "no_buffer"),
        (("paraphrases",), "no_paraphrases"),
        (("buffer", "paraphrases"), ""),
    ],
    ids=str,
)
def test_the_usual_arms_are_those_for_which_there_is_material(teach, lacking, arm):
    planned = teach("dry", arms=None, dry_run=True, **dict.fromkeys(lacking))
    named = [line.split()[3] for line in planned.facts["would run"][:-1]]
    assert named == ["common", *filter(None, [arm])]


def test_an_arm_takes_as_much_of_the_buffer_as_its_own_ratio_says(teach):
    planned = teach("dry", arms=["delia", "delia@ratio=0.25"], dry_run=True)
    assert [line.split(" on ")[1] for line in planned.facts["would run"][:2]] == [
        "24 examples",
        "20 examples",
    ]


def test_the_usual_evaluations_of_a_task_in_json_are_its_format_and_the_loss(teach):
    planned = teach("dry", evaluate=None, dry_run=True)
    assert planned.facts["would run"][-1] == "18 evaluation items for each model"


WRONG = {
    "no such arm": ({"arms": ["delya"]}, UsageError, "no arm called 'delya'"),
    "no arm to train": ({"arms": ["untuned"]}, UsageError, "there is no arm to train"),
    "no seeds": ({"seeds": 0}, UsageError, "seeds must be at least 1"),
    "certain": ({"confidence": 1.0}, UsageError, "confidence between 0 and 1"),
    "own seed": ({"tuning": replace(TUNING, seed=1)}, UsageError, "are set here"),
    "no such start": ({"init": "zero"}, UsageError, "init is random, mean or description, got 'zero'"),
    "words without a token": ({"tokens": None, "words": ["blue"]}, UsageError, "about new tokens"),
    "start without a token": ({"tokens": None, "arms": ["delia@init=mean"]}, UsageError, "about new tokens"),
    "rate without a token": (
        {"tokens": None, "arms": ["delia@token_rate=9"]},
        UsageError,
        "about new tokens",
    ),
    "ratio of an arm": ({"arms": ["delia@ratio=260"]}, SelectionError, "asks for 4,160 examples"),
    "token without a text": ({"tokens": ["=blue"]}, UsageError, "cannot be a token"),
    "ratio": (
        {"mixing": Mixing(ratio=260)},
        SelectionError,
        "asks for 4,160 examples of the buffer, which has 18",
    ),
    "ratio of gradients": (
        {"mixing": Mixing(ratio=260), "arms": ["common"]},
        SelectionError,
        "asks for 4,160 examples",
    ),
    "no paraphrases": ({"paraphrases": None}, UsageError, "needs --paraphrases"),
    "no paraphrases to repeat": (
        {"paraphrases": None, "arms": ["common", "repeated"]},
        UsageError,
        "needs --paraphrases",
    ),
    "no facts": ({"arms": ["fact_based"]}, UsageError, "needs --facts"),
    "no evaluator": ({"evaluate": ["formt"]}, UsageError, "no evaluator called 'formt'"),
    "no file": ({"buffer": "nothing.jsonl"}, LearnableError, "there is no file nothing.jsonl"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_taught_is_an_error_at_the_start(teach, place, name):
    given, kind, said = WRONG[name]
    with pytest.raises(kind, match=said):
        teach("wrong", **given)
    assert not (place / "wrong").exists()


def test_paraphrases_of_another_task_are_refused(teach, place):
    others = write(place / "others.jsonl", paraphrases_of(toy_examples(3, seed=9)))
    with pytest.raises(UsageError, match="was made of a row of this task"):
        teach("wrong", paraphrases=str(others), arms=["common"])
    assert not (place / "wrong").exists()


@pytest.mark.parametrize(
    ("rows", "test", "said"),
    [
        (1, None, "1 to train on and 0 to test on"),
        (3, None, "2 to train on and 1 to test on"),
        (1, "test.jsonl", "1 to train on and 4 to test on"),
    ],
)
def test_a_task_of_too_few_rows_is_refused(teach, place, rows, test, said):
    few = write(place / f"few-{rows}.jsonl", [task_row(each) for each in toy_examples(rows)])
    given = {"task": [str(few)], "paraphrases": None, "arms": ["common"]}
    with pytest.raises(UsageError, match=said) as caught:
        teach(f"few-{rows}-{test}", **given, test=test and str(place / test))
    assert "--test FILE" in caught.value.hint


def test_a_pool_without_rows_to_test_on_says_how_to_get_some(teach, place):
    verbs.load([str(place / "task.jsonl")], output=str(place / "whole-pool"))
    with pytest.raises(UsageError, match="was loaded without rows to test on") as caught:
        teach("wrong", task=[str(place / "whole-pool")])
    assert "--holdout 0.2" in caught.value.hint


@pytest.mark.parametrize(
    ("tokens", "arms", "said"),
    [
        (["<|im_end|>=blue"], ["common"], "'<|im_end|>' is a token of"),
        (["<sep>"], ["common@init=mean", "common"], "has no meaning to begin from"),
    ],
)
def test_a_token_that_cannot_be_added_is_said_before_anything_is_written_or_trained(
    teach, place, tokens, arms, said
):
    before = trainings(place / "store")
    with pytest.raises(UsageError) as caught:
        teach("token", tokens=tokens, arms=arms)
    assert said in caught.value.message
    assert trainings(place / "store") == before
    assert {path.name for path in (place / "token").iterdir()} <= {"begun.json", "run.lock"}


def command(place, tiny, *, arms):
    """Return the command of a lesson."""
    words = ["teach", str(place / "pool"), "--model", str(tiny), "--arms", *arms]
    words += ["--paraphrases", str(place / "paraphrases.jsonl"), "--buffer", str(place / "buffer.jsonl")]
    words += ["--tokens", "<sep>=blue sky", "--evaluate", *EVALUATIONS, "--gradients", "0", "--ratio", "0.5"]
    words += ["--learning-rate", "0.02", "--batch-size", "2", "--rank", "2", "--dtype", "float32"]
    return words


def kill_at(words, folder, found):
    """Start a command, and kill it as soon as what is looked for is there."""
    process = at_work(words, folder)
    while process.is_alive() and not next(folder.glob(found), None):
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"


def test_killing_it_in_training_and_in_evaluation_changes_nothing(teach, place, tiny, tmp_path):
    arms = ["common", "delia"]
    given = {"arms": arms, "gradients": 0, "tuning": replace(TUNING, batch_size=2)}
    unbroken = teach("unbroken", **given, store=str(tmp_path / "unbroken"))
    words = command(place, tiny, arms=arms)
    kill_at(words, tmp_path, "runs/store/arms/*/checkpoints/last.pt")
    store = tmp_path / "runs" / "store"
    assert len(trainings(store)) < len(arms)
    kill_at(words, tmp_path, "runs/store/completion-*/*.parquet")
    before = trainings(store)
    assert len(before) == len(arms)
    assert not (tmp_path / "lesson" / "step.json").exists()
    resumed = teach(str(tmp_path / "lesson"), **given, store=str(store))
    assert trainings(store) == before
    assert resumed.identity == unbroken.identity
    for name in ("results", "concepts", "samples"):
        assert read(resumed, name).equals(read(unbroken, name))
    assert read(resumed, "table").drop("training_s").equals(read(unbroken, "table").drop("training_s"))


def test_a_second_command_says_that_it_was_done_already(taught, place, tiny, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["teach", "pool", "--model", str(tiny), "--buffer", "buffer.jsonl", "--arms", "common"]
    words += [
        "--evaluate",
        "heldout",
        "--gradients",
        "0",
        "--dtype",
        "float32",
        "--store",
        "store",
        "-o",
        "command",
    ]
    assert cli.call(words) == 0
    assert "was done already" not in capsys.readouterr().out
    assert cli.call(words) == 0
    assert "was done already" in capsys.readouterr().out


def test_the_order_of_the_arms_is_part_of_what_was_done(teach):
    one, other = (teach("dry", arms=arms, dry_run=True) for arms in (["delia", "dmt"], ["dmt", "delia"]))
    assert one.identity != other.identity  # another baseline
