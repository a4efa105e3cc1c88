"""Passes are planned the same whatever is stored, run once, and survive being killed.

The fake model's numbers depend a little on the batch, as real ones do: equal bits mean equal batches.
"""

import itertools
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnable.measures import (
    COLUMNS,
    answers_alone,
    column,
    end_of_turn,
    keep,
    lengths,
    measure_of,
    numbers_of,
    passes,
    planned,
    take,
)
from learnable.measures.kinds import MEASURES
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.runs.store import Store
from learnable.scorers import SCORERS
from learnable.testing import toy_examples
from learnable.types import AnswerHeader, ModelRef, Rendered, Work


class FakeModel:
    """Computes an nll from the token ids; fails when asked for more batches than it may run."""

    work, peak_operations_per_s = Work(), None

    def __init__(self, *, key="fake", batch_tokens=40, dies_after=None, depends_on_batch=True):
        self.key, self.batch_tokens = key, batch_tokens
        self.batches, self._dies_after, self.depends_on_batch = [], dies_after, depends_on_batch

    def measure(self, launch, batches):
        compute = getattr(self, launch.__name__)
        return ((number, compute(batch)) for number, batch in enumerate(batches))

    def token_nll(self, rendered):
        if len(self.batches) == self._dies_after:
            raise KeyboardInterrupt
        self.batches.append([example.id for example in rendered])
        padded = max(len(example.ids) for example in rendered) * len(rendered)
        losses = [example.ids[example.mask].astype(np.float32) for example in rendered]
        for each in losses:
            each[0] += padded / 1000 * self.depends_on_batch
        return losses

    def embedding(self, rendered):
        self.batches.append([example.id for example in rendered])
        return np.array([[len(example.ids), example.ids[0]] for example in rendered], dtype=np.float32)

    @property
    def measured(self):
        return sorted(itertools.chain.from_iterable(self.batches))


def rendered(name, tokens, response=1, *, truncated=False):
    mask = np.arange(tokens) >= tokens - response
    ids = np.frombuffer(name.encode() * tokens, dtype=np.uint8)[:tokens].astype(np.int32)
    return Rendered(id=name, ids=ids, mask=mask, truncated=truncated)


POOL = [rendered(f"e{number:02}", tokens=3 + number * 7 % 6, response=number % 3) for number in range(20)]
ADDED = [rendered(f"new{number}", tokens=5 + number, response=2) for number in range(4)]
DEFINED = [example.id for example in POOL if example.mask.any()]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def pass_over(model, examples, store, *, kind="nll", also=(), end_ids=(), **which):
    """Measure what is missing, and return the measure."""
    measure = measure_of(model.key, **({"rendering": "r", "max_length": 64} | which), kind=kind)
    take(
        lambda: nullcontext(model),
        [measure],
        examples,
        store=store,
        label="loss",
        also=[replace(measure, kind=each) for each in also],
        end_ids=end_ids,
    )
    return measure


def measured(model, examples, store):
    """Measure what is missing, and return the stored numbers by id."""
    key = pass_over(model, examples, store)
    ids = pl.Series("id", [example.id for example in examples if example.mask.any()])
    return dict(store.read(key, ids).select("id", "nll").iter_rows())


def parts(store):
    return list(store.folder.glob("*/*.parquet"))


def batches_of_ids(examples, *, batch_tokens=40):
    return [
        [examples[position].id for position in batch]
        for batch in planned(examples, batch_tokens=batch_tokens)
    ]


def test_lengths_count_the_prompt_and_the_response():
    frame = lengths([rendered("a", 5, 2)])
    assert frame.row(0, named=True) == {
        "id": "a",
        "tokens": 5,
        "response_tokens": 2,
        "truncated": False,
        "undefined": None,
    }


def test_lengths_say_that_the_prompt_fills_the_limit():
    frame = lengths([rendered("a", 5, 0, truncated=True)])
    assert frame["undefined"][0] == "the prompt fills the length limit of 5 tokens, no response token is left"


def test_lengths_say_that_the_template_leaves_no_response():
    assert lengths([rendered("a", 5, 0)])["undefined"][0] == "the chat template leaves no response token"


def test_truncated_example_with_a_response_is_defined():
    assert lengths([rendered("a", 5, 1, truncated=True)])["undefined"][0] is None


def test_lengths_of_nothing_have_the_same_columns():
    assert lengths([]).schema == lengths(POOL).schema


@pytest.mark.parametrize(
    ("model", "max_length"), [("other", 64), ("fake", 65)], ids=["model", "length limit"]
)
def test_measure_is_another_for_another(model, max_length):
    assert measure_of(model, rendering="r", max_length=max_length) != measure_of(
        "fake", rendering="r", max_length=64
    )


examples_of_any_length = st.lists(st.integers(1, 60), max_size=30).map(
    lambda sizes: [rendered(f"e{number}", size) for number, size in enumerate(sizes)]
)


@given(examples_of_any_length, st.integers(1, 120))
def test_padded_batch_fits_unless_it_is_one_example(examples, batch_tokens):
    for batch in planned(examples, batch_tokens=batch_tokens):
        assert len(batch) == 1 or len(batch) * max(len(examples[p].ids) for p in batch) <= batch_tokens


@given(examples_of_any_length, st.integers(1, 120))
def test_batch_ends_only_where_the_next_example_does_not_fit(examples, batch_tokens):
    batches = planned(examples, batch_tokens=batch_tokens)
    for batch, _next in itertools.pairwise(batches):
        assert (len(batch) + 1) * len(examples[batch[0]].ids) > batch_tokens


@given(examples_of_any_length, st.integers(1, 120))
def test_batches_hold_every_example_once(examples, batch_tokens):
    batches = planned(examples, batch_tokens=batch_tokens)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(examples)))


def test_batches_go_from_long_to_short():
    examples = [rendered("a", 5), rendered("b", 9), rendered("c", 7)]
    assert planned(examples, batch_tokens=10) == [[1], [2], [0]]


def test_example_longer_than_a_batch_is_a_batch_of_its_own():
    examples = [rendered("a", 10), rendered("long", 50), rendered("b", 10)]
    assert batches_of_ids(examples, batch_tokens=20) == [["long"], ["a", "b"]]


def test_batches_do_not_depend_on_the_order_of_the_examples():
    shuffled = [POOL[position] for position in np.random.default_rng(0).permutation(len(POOL))]
    assert batches_of_ids(shuffled) == batches_of_ids(POOL)


def test_batches_do_not_depend_on_what_is_stored(store):
    whole, done, model = batches_of_ids(POOL), POOL[5], FakeModel()
    measured(FakeModel(), [done], store)
    measured(model, POOL, store)
    rest = [[name for name in batch if name != done.id] for batch in whole]
    assert model.batches == [batch for batch in rest if batch]


def test_examples_without_a_response_cost_no_pass():
    assert planned([rendered("a", 5, 0), rendered("b", 5, 1)], batch_tokens=40) == [[1]]


def test_what_a_pass_takes_is_said_and_counted(store, capsys):
    measured(FakeModel(), POOL, store)
    capsys.readouterr()
    measure, model = measure_of("fake", rendering="r", max_length=64), FakeModel()
    examples = [*POOL, *ADDED]
    assert take(lambda: nullcontext(model), [measure], examples, store=store, label="loss") == 5 + 6 + 7 + 8
    assert f"4 examples, 26 tokens to measure; {len(DEFINED)} stored already" in capsys.readouterr().err


@pytest.mark.parametrize("examples", [[], [rendered("a", 5, 0)]], ids=["no example", "no response"])
def test_nothing_to_measure_opens_no_model(store, examples):
    measure = measure_of("fake", rendering="r", max_length=64)
    assert take(pytest.fail, [measure], examples, store=store, label="loss") == 0
    assert not parts(store)


def test_two_measures_of_different_passes_are_taken_together(store):
    model, which = FakeModel(), {"rendering": "r", "max_length": 64}
    both = [measure_of("fake", kind=kind, **which) for kind in ("nll", "embedding")]
    take(lambda: nullcontext(model), both, POOL, store=store, label="both")
    assert model.measured == sorted(2 * DEFINED)
    assert [store.read(each, pl.Series(DEFINED)).height for each in both] == 2 * [len(DEFINED)]


def test_run_measures_every_example_with_a_response_once(store):
    model = FakeModel()
    measured(model, POOL, store)
    assert model.measured == DEFINED


def test_run_stores_each_number_under_its_own_id(store):
    found = measured(FakeModel(), POOL, store)
    own = {example.id: int(example.ids[example.mask].sum()) for example in POOL if example.mask.any()}
    assert {name: int(nll) for name, nll in found.items()} == own


def test_second_run_costs_nothing(store):
    measured(FakeModel(), POOL, store)
    measured(FakeModel(dies_after=0), POOL, store)


def test_results_do_not_depend_on_the_order_of_the_examples(tmp_path):
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    assert measured(FakeModel(), POOL, one) == measured(FakeModel(), POOL[::-1], two)


def test_only_added_rows_are_measured(store):
    measured(FakeModel(), POOL, store)
    model = FakeModel()
    measured(model, [*ADDED[:2], *POOL, *ADDED[2:]], store)
    assert model.measured == [example.id for example in ADDED]


def test_another_length_limit_is_measured_anew(store):
    measured(FakeModel(), POOL, store)
    model = FakeModel()
    pass_over(model, POOL, store, max_length=65)
    assert model.measured == DEFINED


def killed(store, monkeypatch, *, after):
    monkeypatch.setattr(keep, "STORE_EVERY_S", 0)
    model = FakeModel(dies_after=after)
    with pytest.raises(KeyboardInterrupt):
        measured(model, POOL, store)
    return model


def test_killed_run_keeps_what_it_measured(store, monkeypatch):
    model = killed(store, monkeypatch, after=2)
    measure = measure_of(model.key, rendering="r", max_length=64)
    missing = store.missing(measure, pl.Series("id", DEFINED))
    assert len(DEFINED) - len(missing) == len(model.measured) > 0


def test_resumed_run_does_only_the_rest(store, monkeypatch):
    before, after = killed(store, monkeypatch, after=2), FakeModel()
    measured(after, POOL, store)
    assert sorted(before.measured + after.measured) == DEFINED


def test_resumed_run_computes_the_batches_of_an_unbroken_one(store, tmp_path, monkeypatch):
    unbroken, rest = FakeModel(), FakeModel()
    measured(unbroken, POOL, Store(tmp_path / "other"))
    first = killed(store, monkeypatch, after=2)
    measured(rest, POOL, store)
    assert first.batches + rest.batches == unbroken.batches


def test_resumed_run_gives_the_bits_of_an_unbroken_one(store, tmp_path, monkeypatch):
    killed(store, monkeypatch, after=2)
    assert measured(FakeModel(), POOL, store) == measured(FakeModel(), POOL, Store(tmp_path / "other"))


def test_short_run_is_stored_in_one_part(store):
    measured(FakeModel(), POOL, store)
    assert len(parts(store)) == 1


def test_long_run_is_stored_as_it_goes(store, monkeypatch):
    monkeypatch.setattr(keep, "STORE_EVERY_S", 0)
    model = FakeModel()
    measured(model, POOL, store)
    assert len(parts(store)) == len(model.batches) > 2


def losses(examples, store):
    key = pass_over(FakeModel(batch_tokens=1), examples, store)
    return column(key, lengths(examples), store=store)


def test_mean_loss_is_nats_per_response_token(store):
    example = rendered("a", 10, 4)
    assert losses([example], store).to_list() == pytest.approx([(4 * ord("a") + 10 / 1000) / 4])


def test_mean_loss_follows_the_rows(store):
    one, two = rendered("a", 9, 4), rendered("z", 5, 1)
    assert losses([two, one], store).to_list() == losses([one, two], store).to_list()[::-1]


def test_mean_loss_is_nan_without_a_response(store):
    examples = [rendered("a", 9, 0), rendered("b", 5, 2), rendered("c", 9, 0)]
    assert losses(examples, store).is_nan().to_list() == [True, False, True]


@pytest.mark.parametrize(
    "examples",
    [[], [rendered("a", 9, 0)], [rendered("a", 9, 0), rendered("b", 9, 2)]],
    ids=["none", "undefined", "both"],
)
def test_mean_loss_is_float32_for_every_row(store, examples):
    found = losses(examples, store)
    assert (found.dtype, found.null_count(), len(found)) == (pl.Float32, 0, len(examples))


@pytest.mark.parametrize(
    "given", [{"kind": "token_nll"}, {"kind": "embedding"}, {"alone": True}, {"rendering": "other"}], ids=str
)
def test_measure_is_another_for_another_pass(given):
    usual = {"rendering": "r", "max_length": 64}
    assert measure_of("fake", **(usual | given)) != measure_of("fake", **usual)


def of_kind(kind, examples, store, *, model=None):
    """Measure what is missing of a kind, and return its measure."""
    return pass_over(model or FakeModel(depends_on_batch=False), examples, store, kind=kind)


def test_token_losses_are_listed_by_example(store):
    examples = [rendered("b", 9, 3), rendered("a", 5, 1)]
    key = of_kind("token_nll", examples, store)
    found = column(key, lengths(examples), store=store)
    assert found.to_list() == [[ord("b")] * 3, [ord("a")]]
    assert found.dtype == pl.List(pl.Float32)


def test_vectors_are_listed_by_example(store):
    examples = [rendered("b", 9, 3), rendered("a", 5, 1)]
    key = of_kind("embedding", examples, store)
    assert column(key, lengths(examples), store=store).to_list() == [[9, ord("b")], [5, ord("a")]]


@pytest.mark.parametrize("kind", ["token_nll", "embedding"])
def test_lists_are_null_without_a_response(store, kind):
    examples = [rendered("a", 9, 0), rendered("b", 5, 2), rendered("c", 9, 0)]
    found = column(of_kind(kind, examples, store), lengths(examples), store=store)
    assert found.is_null().to_list() == [True, False, True]


def test_lists_of_no_response_at_all_are_null(store):
    examples = [rendered("a", 9, 0)]
    found = column(of_kind("token_nll", examples, store), lengths(examples), store=store)
    assert (found.to_list(), found.dtype) == ([None], pl.List(pl.Float32))


def test_the_pass_that_keeps_each_token_gives_the_mean_loss_too(store):
    examples = [rendered("b", 9, 3), rendered("a", 9, 0), rendered("c", 7, 2)]
    key = pass_over(FakeModel(depends_on_batch=False), examples, store, kind="token_nll", also=["nll"])
    found = column(replace(key, kind="nll"), lengths(examples), store=store)
    np.testing.assert_array_equal(found.to_numpy(), [ord("b"), np.nan, ord("c")])


@pytest.mark.parametrize("kind", ["token_nll", "embedding"])
def test_a_second_pass_of_a_kind_costs_nothing(store, kind):
    of_kind(kind, POOL, store)
    again = FakeModel()
    of_kind(kind, POOL, store, model=again)
    assert again.batches == []


# Which part of the loss is that of the end of turns.

END = 9


def conversation(ids, scored, **given):
    mask = np.array([letter == "x" for letter in scored], dtype=np.bool_)
    return Rendered(id="c", ids=np.array(ids, dtype=np.int32), mask=mask, truncated=False, **given)


def turns(name, ids, scored):
    return replace(conversation(ids, scored), id=name)


ENDING = [
    turns("one", [5, 1, 2, END], ".xxx"),
    turns("two", [5, 1, END, 6, 3, 4, END], ".xx.xxx"),
    turns("cut", [5, 1, 2], ".xx"),
    turns("within", [5, END, 2, 3], ".xxx"),
    turns("none", [5, 1], ".."),
]


def test_a_token_ends_a_turn_where_it_is_the_last_of_an_answer():
    found = [end_of_turn(example, {END}).tolist() for example in ENDING]
    assert found == [
        [False, False, True],
        [False, True, False, False, True],
        [False, False],
        [False, False, False],
        [],
    ]


def ends(store, examples=ENDING, *, kind="nll", also=("end_nll",)):
    model = FakeModel(depends_on_batch=False)
    key = pass_over(model, examples, store, kind=kind, also=also, end_ids={END})
    return replace(key, kind="nll"), model


def end_nll(key, store):
    return column(replace(key, kind="end_nll"), lengths(ENDING), store=store)


def test_a_pass_stores_the_nll_of_the_ends_beside_that_of_the_answers(store):
    key, _ = ends(store)  # the fake loss of a token is its id
    frame = lengths(ENDING)
    np.testing.assert_allclose(column(key, frame, store=store), [12 / 3, 26 / 5, 3 / 2, 14 / 3, np.nan])
    np.testing.assert_array_equal(end_nll(key, store), [9, 18, 0, 0, np.nan])


def test_losses_that_were_stored_without_their_ends_stay_valid_and_their_ends_are_not_known(store):
    ends(store, ENDING[:2], also=())
    key, model = ends(store)
    assert model.measured == ["cut", "within"]
    np.testing.assert_array_equal(end_nll(key, store), [np.nan, np.nan, 0, 0, np.nan])


def test_ends_that_are_asked_for_are_measured_and_the_losses_stay_as_they_were(store):
    key, _ = ends(store, also=())
    before = store.read(key, pl.Series(["one", "two"]))
    _, model = ends(store, kind="end_nll", also=())
    assert model.measured == ["cut", "one", "two", "within"]
    np.testing.assert_array_equal(end_nll(key, store), [9, 18, 0, 0, np.nan])
    assert store.read(key, pl.Series(["one", "two"])).equals(before)


def test_stored_losses_of_tokens_give_both_sums(store):
    ends(store, kind="token_nll", also=())
    key, model = ends(store, kind="token_nll", also=("nll", "end_nll"))
    assert model.measured == []
    np.testing.assert_array_equal(end_nll(key, store), [9, 18, 0, 0, np.nan])
    assert store.read(key, pl.Series(["two"]))["nll"].item() == 26


def test_the_sum_over_tokens_has_the_bits_of_the_sum_of_the_engine(tiny, store):
    model = LanguageModel(ModelRef(name=str(tiny), dtype="float32"))
    rendered = model.renderer.render(toy_examples(20, turns=2), max_length=256)
    key = measure_of(model.key, rendering="r", max_length=256)
    take(lambda: nullcontext(model), [key], rendered, store=store, label="x")
    stored = dict(store.read(key, pl.Series([each.id for each in rendered])).iter_rows())
    for batch in planned(rendered, batch_tokens=model.batch_tokens):
        members = [rendered[place] for place in batch]
        assert [stored[each.id] for each in members] == model.nll(members).tolist()


# Answers without their instructions.


HEADER = AnswerHeader(opening=np.array([60], dtype=np.int32), marks=np.array([50, 51], dtype=np.int32))


def test_an_answer_alone_stands_behind_the_header():
    (alone,) = answers_alone([conversation([7, 8, 1, 2, 3, 9], "..xxx.")], header=HEADER)
    assert (alone.id, alone.ids.tolist(), alone.mask.tolist()) == (
        "c",
        [60, 50, 51, 1, 2, 3],
        [False, False, False, True, True, True],
    )


def test_each_answer_of_several_turns_stands_behind_a_header():
    (alone,) = answers_alone([conversation([7, 1, 2, 8, 9, 3, 4], ".xx..xx")], header=HEADER)
    assert alone.ids.tolist() == [60, 50, 51, 1, 2, 50, 51, 3, 4]
    assert alone.mask.tolist() == [letter == "x" for letter in "...xx..xx"]


def test_an_answer_stands_behind_its_own_header_where_that_is_another():
    ids, scored = [7, 50, 51, 70, 71, 1, 2, 7, 50, 9, 50, 51, 72, 3], ".....xx......x"
    (alone,) = answers_alone([conversation(ids, scored)], header=HEADER)
    assert alone.ids.tolist() == [60, 50, 51, 70, 71, 1, 2, 50, 51, 72, 3]


def test_a_header_of_one_token_is_never_looked_for():
    """It may end a turn long before, such as EOS, and what a user says would come along."""
    header = AnswerHeader(opening=np.array([], dtype=np.int32), marks=np.array([50], dtype=np.int32))
    (alone,) = answers_alone([conversation([50, 7, 8, 1, 50, 9, 2], "...xx.x")], header=header)
    assert alone.ids.tolist() == [50, 1, 50, 50, 2]


def test_answers_alone_have_the_dtypes_of_what_is_rendered():
    (alone,) = answers_alone([conversation([7, 1], ".x")], header=HEADER)
    assert (alone.ids.dtype, alone.mask.dtype) == (np.int32, np.bool_)


def test_an_example_without_an_answer_has_none_alone():
    (alone,) = answers_alone([conversation([], "", refused="no system turn")], header=HEADER)
    assert not alone.mask.any()
    assert alone.refused == "no system turn"


def test_answers_alone_keep_every_counted_token(tiny):
    renderer = Renderer.of(ModelRef(name=str(tiny)))
    examples = toy_examples(5, turns=3)
    whole = renderer.render(examples, max_length=256)
    for before, after in zip(whole, answers_alone(whole, header=renderer.answer_header), strict=True):
        assert after.ids[after.mask].tolist() == before.ids[before.mask].tolist()
    answers = [message.content for message in examples[-1].messages[1::2]]
    assert renderer.decode(after.ids) == "".join(
        f"<|im_start|>assistant\n{each}<|im_end|>" for each in answers
    )


def test_losses_of_answers_behind_another_header_are_not_read_as_these():
    (alone, usual) = (measure_of("fake", rendering="r", max_length=64, alone=each) for each in (True, False))
    assert alone.parameters["context"] == "answer header"
    assert "context" not in usual.parameters


def test_a_text_of_a_tokenizer_without_bos_begins_behind_eos(tiny):
    renderer = Renderer.of(ModelRef(name=str(tiny)))
    assert renderer.separator == renderer.tokenizer.eos_token_id


@pytest.fixture
def with_bos(tiny):
    """Return a tokenizer that knows a BOS."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.bos_token = "<|endoftext|>"
    return tokenizer


def test_a_tokenizer_that_adds_bos_begins_texts_with_it(with_bos):
    from tokenizers.processors import TemplateProcessing

    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", with_bos.bos_token_id)]
    )
    assert Renderer(with_bos, name="mine").separator == with_bos.bos_token_id != with_bos.eos_token_id


def test_a_bos_that_the_tokenizer_does_not_add_begins_nothing(with_bos):
    assert Renderer(with_bos, name="mine").separator == with_bos.eos_token_id


def test_parts_of_one_example_each_are_read_together(store):
    for example in (rendered("a", 5, 2), rendered("b", 7, 3)):
        key = pass_over(FakeModel(), [example], store, kind="token_nll")
    frame = pl.DataFrame({"id": ["a", "b"], "response_tokens": [2, 3]})
    assert column(key, frame, store=store).list.len().to_list() == [2, 3]


@pytest.mark.parametrize(("peak", "said"), [(1e9, "50% of the peak"), (0.25e9, None)])
def test_no_pass_is_said_to_be_faster_than_the_peak(capsys, peak, said):
    model = FakeModel()
    model.peak_operations_per_s = peak
    work = Work(tokens=100, computed=100, operations=1e10, seconds=20.0)
    passes._say_speed(model, work, "base loss")
    line = capsys.readouterr().err
    assert "5 tokens/s" in line
    assert said in line if said else "peak" not in line


# The table.


def test_what_scorers_need_is_in_the_table():
    assert {need for scorer in SCORERS.values() for need in scorer().needs} <= set(COLUMNS)


def test_a_kind_has_one_name_and_a_column_one_kind():
    columns = [column for kind in MEASURES.values() for column in kind.columns]
    assert len(columns) == len(set(columns))
    assert all(name == kind.name for name, kind in MEASURES.items())


@pytest.mark.parametrize(
    ("needs", "numbers"),
    [
        (["response_tokens"], set()),
        (["loss_before"], {"loss_before"}),
        (["token_losses_before", "token_losses_alone"], {"loss_before", "loss_alone"}),
        (
            ["loss_before", "loss_after"],
            {"loss_before", "loss_after", "end_nll_before", "end_nll_after", "end_tokens"},
        ),
    ],
    ids=["no pass", "base", "by token", "reference"],
)
def test_the_numbers_that_come_with_what_is_needed(needs, numbers):
    assert numbers_of(needs) == {"tokens", "response_tokens"} | numbers


def test_the_table_is_known_without_torch():
    code = "import sys, learnable.measures; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
