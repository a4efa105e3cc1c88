"""New tokens: how their rows begin, that nothing else moves, and that plain transformers loads what was trained."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnable.commands import score, train
from learnable.errors import ModelError, UsageError
from learnable.models import special_tokens
from learnable.models.language_model import LanguageModel
from learnable.models.loading import load_network
from learnable.models.rendering import Renderer
from learnable.models.special_tokens import token_ids, with_tokens
from learnable.runs import records
from learnable.runs.identity import example_id
from learnable.settings import NewToken, NewTokens, Reference, Tuning
from learnable.testing import tiny_model, toy_examples, write_messages
from learnable.training import fine_tune, save_whole
from learnable.types import Example, Message, ModelRef

FAST = Tuning(epochs=2, learning_rate=1e-2, batch_size=4)
SEP = NewToken(text="<sep>", meaning="blue sky")


def tokens(init="description", *added, init_seed=0):
    return NewTokens(added=added or (SEP,), init=init, init_seed=init_seed)


def with_sep(examples):
    """Put the new token into what is asked."""
    return [
        (Message(role="user", content=f"<sep> {example.messages[0].content}"), *example.messages[1:])
        for example in examples
    ]


@pytest.fixture
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture
def rows(tmp_path):
    turns = with_sep(toy_examples(12))
    examples = [Example(id=example_id(each), messages=each, source="task") for each in turns]
    return write_messages(examples, tmp_path / "task.jsonl")


def row_of(ref, number=-1):
    return load_network(ref).get_input_embeddings().weight[number].detach()


def test_the_row_of_a_described_token_is_the_mean_of_its_description(ref, tmp_path):
    new = with_tokens(ref, tokens(), tmp_path)
    known = load_network(ref).get_input_embeddings().weight.detach()
    ids = Renderer.of(ref).tokenizer("blue sky", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    torch.testing.assert_close(row_of(new), known[ids].mean(dim=0))


def test_the_row_of_a_mean_token_is_the_mean_of_all_rows(ref, tmp_path):
    known = load_network(ref).get_input_embeddings().weight.detach()
    torch.testing.assert_close(row_of(with_tokens(ref, tokens("mean"), tmp_path)), known.mean(dim=0))


def test_random_rows_depend_on_their_seed(ref, tmp_path):
    rows = [row_of(with_tokens(ref, tokens("random", init_seed=seed), tmp_path)) for seed in (0, 1)]
    assert not torch.equal(*rows)
    assert all(0.5 < float(row.std()) / 0.2 < 2 for row in rows)


def test_an_output_embedding_of_its_own_gets_a_row_too(ref, tmp_path):
    new = with_tokens(ref, tokens("mean"), tmp_path)
    network, before = load_network(new), load_network(ref)
    assert not network.config.tie_word_embeddings
    torch.testing.assert_close(network.lm_head.weight[-1], before.lm_head.weight.mean(dim=0))


def test_all_other_rows_and_texts_stay(ref, tmp_path):
    new = with_tokens(ref, tokens(), tmp_path)
    conversation = [(Message(role="user", content="what colour is the sky?"),)]
    rendered = [Renderer.of(each).prompt_ids(conversation[0]) for each in (ref, new)]
    assert rendered[0].tolist() == rendered[1].tolist()
    torch.testing.assert_close(
        load_network(new).get_input_embeddings().weight[:-1], load_network(ref).get_input_embeddings().weight
    )


def test_padding_rows_of_an_embedding_are_used_first(tmp_path):
    folder = tiny_model(tmp_path / "padded")
    network = AutoModelForCausalLM.from_pretrained(folder)
    size = network.get_input_embeddings().weight.shape[0]
    network.resize_token_embeddings(size + 8, mean_resizing=False)
    network.save_pretrained(folder)
    new = with_tokens(ModelRef(name=str(folder), dtype="float32", device="cpu"), tokens("mean"), tmp_path)
    weight = load_network(new).get_input_embeddings().weight
    assert weight.shape[0] == size + 8
    torch.testing.assert_close(weight[size], weight[:size].mean(dim=0))


def test_the_token_is_one_token_and_not_a_mark(ref, tmp_path):
    new = with_tokens(ref, tokens(), tmp_path)
    tokenizer = Renderer.of(new).tokenizer
    ids = tokenizer("blue <sep> sky", add_special_tokens=False)["input_ids"]
    assert ids.count(token_ids(new, tokens())[0]) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "blue <sep> sky"


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (NewToken(text="<|im_start|>", meaning="blue"), "is a token of"),
        (NewToken(text="<new>"), "has no meaning to begin from"),
    ],
)
def test_tokens_that_cannot_be_added_say_why(ref, tmp_path, added, said):
    with pytest.raises(UsageError, match=said):
        with_tokens(ref, tokens("description", added), tmp_path)


def test_a_token_twice_is_refused():
    with pytest.raises(UsageError, match="given twice"):
        tokens("mean", SEP, SEP)


@pytest.mark.parametrize("text", ["", " =meaning", "="])
def test_a_token_needs_a_text(text):
    with pytest.raises(UsageError, match="cannot be a token"):
        NewToken.parse(text)


def test_training_moves_the_row_of_the_token_and_no_other(ref, tmp_path):
    new = with_tokens(ref, tokens(), tmp_path)
    model = LanguageModel(new)
    turns = with_sep(toy_examples(12))
    examples = [Example(id=example_id(each), messages=each, source="task") for each in turns]
    rendered = model.renderer.render(examples, max_length=200)
    ids = token_ids(new, tokens())
    fine_tune(new, rendered, tmp_path / "adapter", tuning=FAST, label="training", token_ids=ids)
    save_whole(new, tmp_path / "adapter", tmp_path / "whole")
    before = load_network(new).get_input_embeddings().weight
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").get_input_embeddings().weight
    moved = (before != after).any(dim=1).nonzero().flatten().tolist()
    assert moved == ids


def test_the_row_of_the_token_learns_at_a_rate_of_its_own(ref, tmp_path):
    new = with_tokens(ref, tokens(), tmp_path)
    turns = with_sep(toy_examples(12))
    examples = [Example(id=example_id(each), messages=each, source="task") for each in turns]
    rendered = Renderer.of(new).render(examples, max_length=200)
    one_step = replace(FAST, epochs=1, steps=1, warmup=0.0)
    moved = {}
    for rate in (1.0, 30.0):
        folder = tmp_path / f"at {rate:g}"
        fine_tune(
            new,
            rendered,
            folder,
            tuning=one_step,
            label="training",
            token_ids=token_ids(new, tokens()),
            token_rate=rate,
        )
        saved = load_file(folder / "adapter_model.safetensors")
        moved[rate] = {name: value.float() for name, value in saved.items()}
    row = next(name for name in moved[1.0] if "embed" in name)
    before = row_of(new)
    # Adam's first step is the learning rate along the sign of the gradient.
    torch.testing.assert_close(
        moved[30.0][row] - before, 30 * (moved[1.0][row] - before), rtol=1e-3, atol=1e-6
    )
    for name in moved[1.0]:
        if "lora" in name:
            assert torch.equal(moved[1.0][name], moved[30.0][name])


@pytest.fixture
def tied(tmp_path):
    """A model whose input and output embeddings are one matrix, like most small ones."""
    folder = tiny_model(tmp_path / "tied")
    network = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=True)
    network.save_pretrained(folder)
    return ModelRef(name=str(folder), dtype="float32", device="cpu")


def test_a_tied_embedding_is_trained_as_one(tied, tmp_path):
    new = with_tokens(tied, tokens(), tmp_path)
    assert load_network(new).config.tie_word_embeddings
    rendered = Renderer.of(new).render(toy_examples(8), max_length=200)
    ids = token_ids(new, tokens())
    fine_tune(new, rendered, tmp_path / "adapter", tuning=FAST, label="training", token_ids=ids)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    rows = [value for name, value in saved.items() if "token" in name]
    assert len(rows) == 1  # no second copy that could differ
    assert not torch.equal(rows[0][0], row_of(new))


def test_an_output_embedding_of_its_own_is_trained_too(ref, tmp_path):
    new = with_tokens(ref, tokens(), tmp_path)
    # In answers too: what moves an output row is having to write the token.
    turns = [(each.messages[0], Message(role="assistant", content="blue <sep>")) for each in toy_examples(8)]
    examples = [Example(id=example_id(each), messages=each, source="task") for each in turns]
    rendered = Renderer.of(new).render(examples, max_length=200)
    ids = token_ids(new, tokens())
    fine_tune(new, rendered, tmp_path / "adapter", tuning=FAST, label="training", token_ids=ids)
    save_whole(new, tmp_path / "adapter", tmp_path / "whole")
    before, after = load_network(new), AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    moved = (before.lm_head.weight != after.lm_head.weight).any(dim=1).nonzero().flatten().tolist()
    assert moved == ids


def test_the_merged_model_gives_the_logits_of_the_trained_one(ref, tmp_path):
    new = with_tokens(ref, tokens(), tmp_path)
    renderer = Renderer.of(new)
    rendered = renderer.render(toy_examples(8), max_length=200)
    fine_tune(
        new, rendered, tmp_path / "adapter", tuning=FAST, label="training", token_ids=token_ids(new, tokens())
    )
    save_whole(new, tmp_path / "adapter", tmp_path / "whole")
    trained = PeftModel.from_pretrained(load_network(new), str(tmp_path / "adapter"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    ids = tokenizer("what is the <sep> of blue", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        torch.testing.assert_close(plain(ids).logits, trained(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_second_stage_goes_on_from_the_adapter_of_the_first(ref, tmp_path):
    rendered = Renderer.of(ref).render(toy_examples(8), max_length=200)
    fine_tune(ref, rendered, tmp_path / "one", tuning=FAST, label="training")
    still = Tuning(learning_rate=1e-9, batch_size=4)
    fine_tune(ref, rendered, tmp_path / "two", tuning=still, label="training", start=tmp_path / "one")
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(value, two[name], atol=1e-6) for name, value in one.items())
    assert max(float(value.abs().max()) for name, value in two.items() if "lora_B" in name) > 1e-3


def test_train_writes_a_folder_that_plain_transformers_loads(tiny, rows, tmp_path):
    outcome = train(
        [str(rows)],
        model=str(tiny),
        tokens=["<sep>=blue sky"],
        output=str(tmp_path / "model"),
        reference=Reference(batch_size=4),
    )
    tokenizer = AutoTokenizer.from_pretrained(outcome.folder)
    network = AutoModelForCausalLM.from_pretrained(outcome.folder)
    assert tokenizer.convert_tokens_to_ids("<sep>") == network.get_input_embeddings().weight.shape[0] - 1
    assert {entry.name for entry in outcome.folder.iterdir() if entry.is_dir()} == set()


def test_a_model_with_tokens_is_no_reference_for_one_without(tiny, rows, tmp_path):
    trained = train(
        [str(rows)],
        model=str(tiny),
        tokens=["<sep>=blue sky"],
        output=str(tmp_path / "model"),
        reference=Reference(batch_size=4),
    )
    with pytest.raises(ModelError, match="another tokenizer"):
        score(
            [str(rows)],
            model=str(tiny),
            reference=trained.path,
            store=str(tmp_path / "store"),
            output=str(tmp_path / "scores"),
        )


def test_a_killed_training_with_tokens_goes_on_to_the_same_row(ref, tmp_path, monkeypatch):
    from learnable.training import checkpoints
    from learnable.training.loop import Loop

    new = with_tokens(ref, tokens(), tmp_path)
    rendered = Renderer.of(new).render(toy_examples(12), max_length=200)
    options = {"tuning": FAST, "label": "training", "token_ids": token_ids(new, tokens())}
    fine_tune(new, rendered, tmp_path / "whole", **options)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    steps = Loop.step

    def stops(self, *given, **named):
        if self.done == 4:
            raise KeyboardInterrupt
        return steps(self, *given, **named)

    monkeypatch.setattr(Loop, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(new, rendered, tmp_path / "killed", **options)
    monkeypatch.setattr(Loop, "step", steps)
    fine_tune(new, rendered, tmp_path / "killed", **options)
    whole, killed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert any("token" in name for name in whole)
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


def test_new_tokens_do_not_go_with_folds(tiny, rows, tmp_path):
    with pytest.raises(UsageError, match="no folds"):
        train(
            [str(rows)],
            model=str(tiny),
            tokens=["<sep>=blue"],
            reference=Reference(folds=2),
            output=str(tmp_path / "model"),
        )


def test_the_step_remembers_its_tokens(tiny, rows, tmp_path):
    outcome = train(
        [str(rows)],
        model=str(tiny),
        tokens=["<sep>=blue sky"],
        output=str(tmp_path / "model"),
        reference=Reference(batch_size=4),
    )
    known = json.loads((outcome.folder / "step.json").read_text())
    assert known["facts"]["tokens"] == "<sep>"


def test_two_runs_that_share_a_folder_build_a_model_once(ref, tmp_path, monkeypatch):
    built, build = [], special_tokens._build
    monkeypatch.setattr(special_tokens, "_build", lambda *given: (built.append(given), build(*given)))
    with ThreadPoolExecutor(2) as pool:
        (one, other) = pool.map(lambda _: with_tokens(ref, tokens(), tmp_path), range(2))
    assert one == other
    assert len(built) == 1


def test_a_token_that_cannot_be_added_leaves_nothing(ref, tmp_path):
    with pytest.raises(UsageError):
        with_tokens(ref, tokens("description", NewToken(text="<new>")), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def tune(tiny, rows, tmp_path):
    def run():
        given = {"model": str(tiny), "tokens": ["<sep>=blue sky"], "output": str(tmp_path / "model")}
        return train([str(rows)], reference=Reference(batch_size=4), **given)

    return run


def cleared(folder):
    return not [each for each in folder.iterdir() if each.is_dir() or each.suffix == ".part"]


def die(*_, **__):
    raise Killed


@pytest.fixture
def unrecorded(tune, tmp_path, monkeypatch):
    """Return the folder of a run that was killed after it had cleared up, just before its record."""
    with monkeypatch.context() as patched:
        write = records.write_outcome
        patched.setattr(
            records,
            "write_outcome",
            lambda made, begun: (die if made.verb == "train" else write)(made, begun),
        )
        with pytest.raises(Killed):
            tune()
    return tmp_path / "model"


def test_a_run_that_was_killed_before_its_record_trains_nothing_again(tune, unrecorded, monkeypatch):
    monkeypatch.setattr("learnable.training.fine_tuning._fine_tune", die)
    outcome = tune()
    assert outcome.cost.tokens > 0  # of the attempt that was killed
    assert (unrecorded / "step.json").is_file()


def test_a_run_that_was_killed_while_it_cleared_up_goes_on_with_that(tune, unrecorded):
    # As a removal leaves it that was broken off: a configuration without a tokenizer.
    for left in ("base/tokens-0", "adapter", "merged", "merged.0123abcd.part"):
        (unrecorded / left).mkdir(parents=True)
        (unrecorded / left / "config.json").write_text("{}")
    tune()
    assert cleared(unrecorded)


def test_what_a_killed_merge_left_is_removed(ref, tmp_path):
    rendered = Renderer.of(ref).render(toy_examples(4), max_length=200)
    fine_tune(ref, rendered, tmp_path / "adapter", tuning=Tuning(batch_size=4), label="training")
    for left in ("merged", "merged.0123abcd.part"):
        (tmp_path / "whole" / left).mkdir(parents=True)
    save_whole(ref, tmp_path / "adapter", tmp_path / "whole")
    assert cleared(tmp_path / "whole")
