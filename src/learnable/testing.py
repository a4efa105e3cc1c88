"""For tests, ours and yours: a tiny model built on the spot, toy examples, and contracts that every method keeps."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learnable.measures import LISTS
from learnable.objectives import Objective
from learnable.runs.identity import example_id, fingerprint
from learnable.types import Example, Message, Picks, Scorer, Selector

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_GENERATION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = (
    "the a of to in is and what who why how colour sky blue red grass green sun moon sea water fire one two three "
    "four five six seven eight nine ten big small cat dog bird fish tree house road name city river song book"
)
_WORDS = _TEXT.split()


def tiny_model(folder: Path, *, template: str | None = CHATML, seed: int = 0) -> Path:
    """Write a Llama of about 30,000 parameters, with its tokenizer, that loads like any model folder; return the folder.

    Without a chat ``template`` it is a base model; ``seed`` seeds the weights.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([_TEXT] * 4, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    fast.chat_template = template
    torch.manual_seed(seed)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
            # Larger than usual, so that an untrained model has opinions and losses differ.
            initializer_range=0.2,
        )
    )
    network.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def toy_examples(n: int, *, seed: int = 0, turns: int = 1) -> list[Example]:
    """Return n conversations of words that the tiny model's tokenizer knows, of differing lengths."""
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(n):
        messages = []
        for _ in range(turns):
            asked, answered = (" ".join(rng.choice(_WORDS, size=rng.integers(2, 12))) for _ in range(2))
            messages.append(Message(role="user", content=f"{asked}?"))
            messages.append(Message(role="assistant", content=answered))
        source = ("left", "right")[number % 2]
        examples.append(Example(id=example_id(messages), messages=tuple(messages), source=source))
    return examples


def write_messages(examples: Sequence[Example], path: Path) -> Path:
    """Write conversations as a JSONL file in the ``messages`` format."""
    rows = [{"messages": [message.turn() for message in example.messages]} for example in examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def check_scorer(scorer: Scorer) -> None:
    """Check that a scorer keeps its contract, on a small table of made-up measurements.

    Its score is float32 (n,), also for no rows; never infinite; a number where all it needs is measured and ordinary,
    NaN where something it needs is missing. It reads the columns in ``needs`` and no other, does not depend on the
    order of the rows, gives the same again, and its fingerprint is stable. Where it says ``by_row``, parts of the table
    give what the whole gives, to the bit.

    Args:
        scorer: Called on columns made up by their names: whole numbers for ``tokens`` and ``..._tokens``, small ones
            for ``end_tokens``; lists of at least two positive float32 for those that are lists in ``measures.MEASURES``, in one row of one length; else positive float32.

    Raises:
        AssertionError: If the contract is broken; it says where.
    """
    name = type(scorer).__name__
    assert isinstance(scorer.higher_is_better, bool), f"{name}: higher_is_better is not True or False"
    assert scorer.needs, f"{name}: needs names no column"
    _check_fingerprint(scorer)
    rng = np.random.default_rng(0)
    ordinary = _ordinary_rows(scorer.needs, n=40, rng=rng)
    first = ordinary.head(1)
    nulls = [first.with_columns(pl.lit(None, dtype=kind).alias(name)) for name, kind in first.schema.items()]
    lacking = pl.concat([*nulls, _rows_with(first, float("nan"))])
    frame = pl.concat([ordinary, lacking, _rows_with(first, 0.0), _rows_with(first, float("inf"))])
    scores = _scores_of(scorer, frame)
    undefined, unmeasured = ~np.isfinite(scores[:40]), scores[40 : 40 + lacking.height]
    assert not undefined.any(), f"{name}: no number for rows {np.flatnonzero(undefined)} of {ordinary}"
    assert np.isnan(unmeasured).all(), f"{name}: a score for rows that lack a measurement: {lacking}"
    infinite = frame.filter(pl.Series(np.isinf(scores)))
    assert infinite.is_empty(), f"{name}: an infinite score for {infinite}"
    _scores_of(scorer, frame.head(0))
    np.testing.assert_array_equal(_scores_of(scorer, frame), scores, f"{name}: a second call differs")
    # Reversed too, because that turns every tie around.
    for order in (rng.permutation(frame.height), np.arange(frame.height)[::-1]):
        moved = _scores_of(scorer, frame[order])
        wrong = f"{name}: depends on the order of the rows"
        np.testing.assert_allclose(moved, scores[order], rtol=1e-6, err_msg=wrong)
    if getattr(scorer, "by_row", False):
        parts = np.concatenate([_scores_of(scorer, part) for part in (frame.head(7), frame.slice(7))])
        np.testing.assert_array_equal(parts, scores, f"{name}: says by_row, and depends on other rows")
    more = _scores_of(scorer, frame.with_columns(pl.lit("x").alias("id"), pl.lit(3.0).alias("not needed")))
    np.testing.assert_array_equal(more, scores, f"{name}: depends on columns outside needs")


def check_selector(selector: Selector) -> None:
    """Check that a selector keeps its contract, on scores with ties, with NaN, and without any.

    It picks ``min(k, number of defined scores)`` distinct positions, each with a gain that is a number; never one whose
    score is NaN; the same ones for the same seed; it leaves its inputs as they are, and its fingerprint is stable.

    Args:
        selector: Called with unit vectors (n, 8) and two groups.

    Raises:
        AssertionError: If the contract is broken; it says where.
    """
    _check_fingerprint(selector)
    rng = np.random.default_rng(0)
    spread, nan = rng.normal(size=30).astype(np.float32), np.float32("nan")
    cases = {
        "scores": spread,
        "scores with NaN": np.where(np.arange(30) % 3 == 0, nan, spread),
        "equal scores": np.ones(12, dtype=np.float32),
        "one score": np.ones(1, dtype=np.float32),
        "only NaN": np.full(5, nan),
        "no scores": np.empty(0, dtype=np.float32),
    }
    for label, scores in cases.items():
        for k in (0, 1, 7, len(scores), len(scores) + 3):
            _check_picks(selector, scores, k=k, label=f"{type(selector).__name__}, {label}, k={k}")


def check_objective(objective: Objective) -> None:
    """Check that an objective keeps its contract, on a small batch of made-up values.

    Its loss is a finite scalar; its gradient is that of its values (taken numerically, in float64) and finite; neither
    depends on the order of the examples, on a second call, or on columns that it does not name; ``linear`` says the
    truth; its fingerprint is stable.

    Args:
        objective: Called on n examples of its ``answers``, with positive float64 columns and whole ``response_tokens``.

    Raises:
        AssertionError: If the contract is broken; it says where.
    """
    import torch

    name = type(objective).__name__
    assert objective.answers >= 1, f"{name}: takes {objective.answers} answers"
    assert isinstance(objective.linear, bool), f"{name}: linear is not True or False"
    _check_fingerprint(objective)
    rng, shape = np.random.default_rng(0), (6, objective.answers)
    tokens = rng.integers(2, 40, size=shape)
    nll, other = (torch.from_numpy(tokens * rng.gamma(4, 0.5, size=shape)) for _ in range(2))
    columns = {column: torch.from_numpy(tokens * rng.gamma(4, 0.5, size=shape)) for column in objective.needs}
    columns["response_tokens"] = torch.from_numpy(tokens)

    def taken(at: Any, given: Any = columns) -> tuple[float, NDArray[np.float64]]:
        leaf = at.clone().requires_grad_()
        try:
            loss = objective(leaf, given)
        except KeyError as error:
            raise AssertionError(
                f"{name}: reads a column that is not in needs={objective.needs}: {error}"
            ) from error
        assert loss.shape == (), f"{name}: returns the shape {tuple(loss.shape)}, not a scalar"
        gradient = torch.autograd.grad(loss, leaf)[0]
        assert bool(gradient.isfinite().all()), f"{name}: a gradient is not a number: {gradient}"
        return float(loss.detach()), gradient.numpy()

    loss, gradient = taken(nll)
    assert np.isfinite(loss), f"{name}: the loss is {loss}"
    leaf = nll.clone().requires_grad_()
    right = torch.autograd.gradcheck(lambda at: objective(at, columns), leaf, raise_exception=False)
    assert right, f"{name}: the gradient is not that of the values"
    for order in (rng.permutation(6), np.arange(6)[::-1].copy()):
        moved = taken(nll[order], {column: values[order] for column, values in columns.items()})
        wrong = f"{name}: depends on the order"
        np.testing.assert_allclose(moved[0], loss, rtol=1e-9, err_msg=wrong)
        np.testing.assert_allclose(moved[1], gradient[order], rtol=1e-9, err_msg=wrong)
    _, again = taken(nll, {**columns, "not needed": nll})
    wrong = f"{name}: depends on a column outside needs, or on chance"
    np.testing.assert_array_equal(again, gradient, wrong)
    same = np.array_equal(taken(other)[1], gradient)
    assert same == objective.linear, f"{name}: linear is {objective.linear}, but the gradient says {same}"


def _check_fingerprint(method: Any) -> None:
    try:
        stable = fingerprint(method) == fingerprint(copy.deepcopy(method))
    except TypeError as error:
        raise AssertionError(f"{type(method).__name__}: no fingerprint: {error}") from error
    assert stable, f"{type(method).__name__}: a copy has another fingerprint"


def _ordinary_rows(needs: Sequence[str], *, n: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return n rows, the last of which is the first again, so that there is a tie."""
    lengths = rng.integers(2, 9, size=n)  # at least a token, and one that ends the turn

    def column(name: str) -> pl.Series:
        if name == "end_tokens":
            return pl.Series(name, np.ones(n, dtype=np.int64))
        if name.endswith("tokens"):
            return pl.Series(name, rng.integers(2, 200, size=n))
        if name in LISTS:
            losses = [_losses(rng, length) for length in lengths]
            return pl.Series(name, losses, dtype=pl.List(pl.Float32))
        return pl.Series(name, _losses(rng, n))

    frame = pl.DataFrame([column(name) for name in needs])
    return frame.head(n - 1).vstack(frame.head(1))


def _losses(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.gamma(4, 0.5, size=n).astype(np.float32)


def _rows_with(row: pl.DataFrame, value: float) -> pl.DataFrame:
    """Return a row for each column of floating-point numbers, with ``value`` in it, or in the first place of its list."""
    rows = [row.head(0)]
    for name, kind in row.schema.items():
        if kind.is_float() or isinstance(kind, pl.List):
            changed = value if kind.is_float() else [value, *row[name][0][1:]]
            rows.append(row.with_columns(pl.Series(name, [changed], dtype=kind)))
    return pl.concat(rows)


def _scores_of(scorer: Scorer, frame: pl.DataFrame) -> NDArray[np.float32]:
    name = type(scorer).__name__
    try:
        scores = scorer(frame)
    except pl.exceptions.ColumnNotFoundError as error:
        raise AssertionError(
            f"{name}: reads a column that is not in needs={scorer.needs}: {error}"
        ) from error
    kind = scores.dtype if isinstance(scores, np.ndarray) else type(scores).__name__
    assert kind == np.float32, f"{name}: returns {kind}, not a float32 array"
    assert scores.shape == (frame.height,), f"{name}: shape {scores.shape} for {frame.height} rows"
    return scores


def _check_picks(selector: Selector, scores: NDArray[np.float32], *, k: int, label: str) -> None:
    picks = _picks_of(selector, scores, k=k, label=label)
    defined, index, gain = np.flatnonzero(~np.isnan(scores)), picks.index, picks.gain
    count = min(k, len(defined))
    kind = index.dtype
    assert np.issubdtype(kind, np.integer), f"{label}: the index is {kind}, not whole numbers"
    assert index.shape == (count,), f"{label}: {index.shape} picks, not ({count},)"
    assert len({*index.tolist()}) == count, f"{label}: picked twice: {index.tolist()}"
    assert np.isin(index, defined).all(), f"{label}: picked NaN, or no row: {index.tolist()}"
    assert gain.shape == (count,), f"{label}: {gain.shape} gains for {count} picks"
    assert gain.dtype == np.float32, f"{label}: the gain is {gain.dtype}, not float32"
    assert np.isfinite(gain).all(), f"{label}: a gain is not a number: {gain.tolist()}"
    again = _picks_of(selector, scores, k=k, label=label)
    np.testing.assert_array_equal(again.index, index, f"{label}: other picks for the same seed")


def _picks_of(selector: Selector, scores: NDArray[np.float32], *, k: int, label: str) -> Picks:
    n = len(scores)
    vectors = np.random.default_rng(1).normal(size=(n, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    given = scores.copy()
    picks = selector(given, k=k, vectors=vectors, groups=np.arange(n) % 2, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(given, scores, f"{label}: the scores were changed")
    return picks
