"""What a training step takes at once: packed rows, states that are computed again, less where memory ends."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from learnable.models.attention import attending
from learnable.models.lengths import LengthSwitches
from learnable.models.packing import packed, padded
from learnable.models.rendering import Renderer
from learnable.settings import Tuning
from learnable.testing import toy_examples
from learnable.training import fine_tune, fine_tuning, loss, memory, passes
from learnable.training.batches import batch_of, inputs_of, pieces
from learnable.training.memory import PieceSize
from learnable.types import ModelRef

FAST = Tuning(learning_rate=5e-3, batch_size=4, rank=4)


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rendered(ref):
    return Renderer.of(ref).render(toy_examples(12), max_length=128)


@pytest.mark.parametrize("again", [False, True])
def test_packed_rows_have_the_gradient_of_padded_ones(tiny, rendered, monkeypatch, again):
    network = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    monkeypatch.setitem(loss.LOGITS_AT_ONCE, "cpu", 7 * network.config.vocab_size)  # several chunks
    network.train()
    members, parameters = batch_of(list(enumerate(rendered))), list(network.parameters())
    found = []
    for lay in (padded, packed):
        layout = lay(rendered)
        if again and lay is packed:
            network.activation_checkpointing_enable({"use_reentrant": False})
        with attending(network, layout):
            nll, _ = loss.response_nll(
                network, inputs_of(members, layout), count=len(members), forward=network
            )
            found.append((nll.detach(), torch.autograd.grad(nll.sum(), parameters)))
    assert layout.computed < padded(rendered).computed
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-4)


def test_pieces_hold_as_many_tokens_as_asked_for_with_or_without_padding(rendered):
    members = sorted(batch_of(list(enumerate(rendered))), key=lambda each: -len(each.example.ids))
    for padding in (True, False):
        parts = list(pieces(members, most_tokens=100, padding=padding, switches=LengthSwitches()))
        assert [member.row for part in parts for member in part] == [member.row for member in members]
        for part in parts:
            lengths = [len(member.example.ids) for member in part]
            assert len(part) == 1 or (len(part) * max(lengths) if padding else sum(lengths)) <= 100


def test_a_step_that_does_not_fit_is_done_again_in_smaller_pieces(ref, rendered, tmp_path, monkeypatch):
    fine_tune(ref, rendered, tmp_path / "whole", tuning=FAST, label="training", keep_losses=True)
    compute, failures = passes.response_nll, []

    def within_memory(network, inputs, **options):
        if inputs["input_ids"].numel() > 130:
            failures.append(inputs["input_ids"].numel())
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return compute(network, inputs, **options)

    monkeypatch.setattr(passes, "response_nll", within_memory)
    fine_tune(ref, rendered, tmp_path / "pieces", tuning=FAST, label="training", keep_losses=True)
    assert failures
    one, other = (
        pl.read_parquet(tmp_path / name / fine_tuning.LAST_EPOCH)["nll"].to_numpy()
        for name in ("whole", "pieces")
    )
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_a_failed_try_leaves_no_gradient_behind(ref, rendered, tmp_path, monkeypatch):
    compute, tries = passes.response_nll, []

    def second_piece_fails(network, inputs, **options):
        tries.append(len(inputs["targets"]))
        if len(tries) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return compute(network, inputs, **options)

    size = PieceSize(tokens=130)
    monkeypatch.setattr(PieceSize, "of", classmethod(lambda cls, *_, **__: replace(size)))
    expected, found = tmp_path / "expected", tmp_path / "found"
    fine_tune(ref, rendered, expected, tuning=FAST, label="training", keep_losses=True)
    monkeypatch.setattr(passes, "response_nll", second_piece_fails)
    fine_tune(ref, rendered, found, tuning=FAST, label="training", keep_losses=True)
    one, other = (
        pl.read_parquet(each / fine_tuning.LAST_EPOCH)["nll"].to_numpy() for each in (expected, found)
    )
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize(
    ("free", "longest", "expected"),
    [
        (100_000, 10, PieceSize(tokens=70)),
        (1_000_000, 10, PieceSize(tokens=200)),
        (100_000, 71, PieceSize(tokens=200, again=True)),
        (10_000, 5, PieceSize(tokens=200, again=True)),
    ],
)
def test_states_are_kept_where_the_longest_row_and_long_enough_pieces_fit(
    monkeypatch, free, longest, expected
):
    monkeypatch.setattr(memory, "WORTH_KEEPING", 50)
    assert PieceSize.within(free, bytes_per_token=1_000, longest=longest, most=200) == expected


def test_pieces_shrink_to_the_longest_row_then_states_are_computed_again_then_nothing_is_left():
    size = PieceSize(tokens=8_192)
    seen = []
    while size.shrink(longest=3_000):
        seen.append((size.tokens, size.again))
    assert seen == [(4_096, False), (3_000, False), (3_000, True)]
