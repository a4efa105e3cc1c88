"""Fine-tuning: what it learns, that it resumes to the same bits, and that folds keep apart."""

import gc
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import transformers
from peft.utils import get_peft_model_state_dict
from polars.testing import assert_frame_equal
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.utils import add_fused_lm_head

from learnable import commands as verbs
from learnable.data import load_pool, prompt_key
from learnable.errors import ModelError, TrainError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.models.lengths import LengthSwitches
from learnable.models.packing import padded
from learnable.models.rendering import Renderer
from learnable.settings import Loading, Reference, Tuning
from learnable.testing import tiny_model, toy_examples, write_messages
from learnable.training import checkpoints, fine_tune, fine_tuning, loss, passes, read_reference
from learnable.training.adapters import trainable
from learnable.training.batches import batch_of, inputs_of, pieces, share
from learnable.training.loop import Loop, _height
from learnable.training.reference import assign_folds, train_reference
from learnable.training.samplers import LengthGroupedBatches, length_grouped
from learnable.types import ModelRef

FAST = Tuning(learning_rate=1e-2, batch_size=4, rank=4)


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rendered(ref):
    return Renderer.of(ref).render(toy_examples(24), max_length=128)


@pytest.fixture(scope="module")
def trained(ref, rendered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    return fine_tune(ref, rendered, folder, tuning=FAST, label="training", keep_losses=True)


def ids(rendered):
    return [example.id for example in rendered]


def mean_loss(model, rendered):
    return model.nll(rendered).sum() / sum(example.mask.sum() for example in rendered)


def test_fine_tuning_lowers_the_loss_on_what_it_saw(ref, rendered, trained):
    model = LanguageModel(ref)
    before = mean_loss(model, rendered)
    with model.adapter(trained.folder):
        after = mean_loss(model, rendered)
    assert after < before - 0.2


def with_dropout(tiny, folder, network):
    """Write a model with the tokenizer of another."""
    torch.manual_seed(0)
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return ModelRef(name=str(folder), dtype="float32", device="cpu")


SMALL = {"vocab_size": 400, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 2}
DROPPING = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=2, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5, **SMALL
        )
    ),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=32,
            dropout=0.5,
            attention_dropout=0.5,
            layerdrop=0.5,
            max_position_embeddings=256,
            **SMALL,
        )
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            attention_dropout=0.5,
            **SMALL,
        )
    ),
}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("family", DROPPING)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_drops_nothing_out(tiny, tmp_path, family, method):
    """With a learning rate of almost nothing, the losses that a training meets are those of the base."""
    ref = with_dropout(tiny, tmp_path / "base", DROPPING[family]())
    rendered = Renderer.of(ref).render(toy_examples(8), max_length=128)
    tuning = Tuning(learning_rate=1e-20, batch_size=4, rank=2, method=method)
    fine_tune(ref, rendered, tmp_path / "out", tuning=tuning, label="training", keep_losses=True)
    met = dict(pl.read_parquet(tmp_path / "out" / fine_tuning.LAST_EPOCH).select("id", "nll").iter_rows())
    base = LanguageModel(ref).nll(rendered)
    np.testing.assert_allclose([met[example.id] for example in rendered], base, rtol=1e-4)
    if method == "full":
        saved = json.loads((tmp_path / "out" / "config.json").read_text())
        assert 0.5 in saved.values(), "the model keeps its own rates for whoever trains it next"


def test_the_base_is_untouched_when_the_adapter_is_off(ref, rendered, trained):
    model = LanguageModel(ref)
    before = model.nll(rendered)
    with model.adapter(trained.folder):
        assert model.key != LanguageModel(ref).key
    np.testing.assert_array_equal(model.nll(rendered), before)
    assert model.key == LanguageModel(ref).key


def test_wearing_an_adapter_leaves_the_buffers_of_the_base_alone(tiny, trained):
    model = LanguageModel(ModelRef(name=str(tiny), dtype="bfloat16"))
    before = {name: (buffer.dtype, buffer.clone()) for name, buffer in model.network.named_buffers()}
    with model.adapter(trained.folder):
        after = {
            name.removeprefix("base_model.model."): buffer for name, buffer in model.network.named_buffers()
        }
        adapters = {p.dtype for name, p in model.network.named_parameters() if "lora_" in name}
    assert adapters == {torch.bfloat16}
    assert all(
        after[name].dtype == dtype and torch.equal(after[name], buffer)
        for name, (dtype, buffer) in before.items()
    )


def test_two_adapters_on_one_set_of_weights_keep_apart(ref, rendered, trained, tmp_path):
    other = fine_tune(ref, rendered[:8], tmp_path, tuning=replace(FAST, seed=5), label="training")
    alone = LanguageModel(ref)
    with alone.adapter(trained.folder):
        expected = alone.nll(rendered)
    model = LanguageModel(ref)
    with model.adapter(other.folder):
        model.nll(rendered)
    with model.adapter(trained.folder):
        np.testing.assert_array_equal(model.nll(rendered), expected)


def test_an_adapter_of_another_model_is_refused(trained, tmp_path):
    torch.manual_seed(0)
    folder = tiny_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    from transformers import LlamaConfig, LlamaForCausalLM

    wider = LlamaConfig(**{**config, "hidden_size": 64})
    LlamaForCausalLM(wider).save_pretrained(folder)
    model = LanguageModel(ModelRef(name=str(folder), dtype="float32"))
    with pytest.raises(ModelError, match="does not fit"), model.adapter(trained.folder):
        pass


def test_a_killed_run_goes_on_to_the_same_weights(ref, rendered, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    steps = Counter()
    compute_loss = passes.response_nll

    def killed(*args, **kwargs):
        steps["computed"] += 1
        if steps["computed"] == 4:
            raise KeyboardInterrupt
        return compute_loss(*args, **kwargs)

    monkeypatch.setattr(passes, "response_nll", killed)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(ref, rendered, tmp_path, tuning=FAST, label="training", keep_losses=True)
    assert not (tmp_path / "training.json").exists()
    fine_tune(ref, rendered, tmp_path, tuning=FAST, label="training", keep_losses=True)
    assert steps["computed"] == 4 + 6 - 3, "three of six steps were kept"
    unbroken = load_file(trained.folder / "adapter_model.safetensors")
    resumed = load_file(tmp_path / "adapter_model.safetensors")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    losses = (pl.read_parquet(folder / fine_tuning.LAST_EPOCH) for folder in (trained.folder, tmp_path))
    assert_frame_equal(*losses)


def test_a_reference_that_was_killed_costs_all_its_trainings(tiny, tmp_path, monkeypatch):
    rows = write_messages(toy_examples(24), tmp_path / "rows.jsonl")
    how = Reference(folds=3, learning_rate=1e-2, batch_size=4, rank=2)
    given = {"model": str(tiny), "loading": Loading(dtype="float32"), "reference": how}
    unbroken = verbs.train([str(rows)], output=str(tmp_path / "unbroken"), **given)
    begun = Counter()
    build = fine_tuning._loop

    def killed(*args, **kwargs):
        begun["trainings"] += 1
        if begun["trainings"] == 3:
            raise KeyboardInterrupt
        return build(*args, **kwargs)

    monkeypatch.setattr(fine_tuning, "_loop", killed)
    with pytest.raises(KeyboardInterrupt):
        verbs.train([str(rows)], output=str(tmp_path / "resumed"), **given)
    monkeypatch.setattr(fine_tuning, "_loop", build)
    resumed = verbs.train([str(rows)], output=str(tmp_path / "resumed"), **given)
    parts = [json.loads(path.read_text()) for path in (tmp_path / "resumed").glob("part-*/training.json")]
    assert resumed.cost.tokens == unbroken.cost.tokens == sum(part["tokens"] for part in parts)
    assert resumed.cost.seconds >= sum(part["seconds"] for part in parts)


def test_a_checkpoint_that_was_not_finished_is_thrown_away(ref, rendered, trained, tmp_path, monkeypatch):
    def killed(state, part):
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
        dying.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(ref, rendered, tmp_path, tuning=FAST, label="training")
    fine_tune(ref, rendered, tmp_path, tuning=FAST, label="training")
    same = load_file(tmp_path / "adapter_model.safetensors")
    assert all(
        torch.equal(value, same[name])
        for name, value in load_file(trained.folder / "adapter_model.safetensors").items()
    )


def test_a_finished_run_is_not_repeated(ref, rendered, trained, monkeypatch):
    monkeypatch.setattr(fine_tuning, "_fine_tune", lambda *_: pytest.fail("trained again"))
    again = fine_tune(ref, rendered, trained.folder, tuning=FAST, label="training")
    assert again == replace(trained, ran=False)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "last_epoch.parquet"])
def test_a_finished_run_whose_files_are_gone_or_changed_is_repeated(
    ref, rendered, trained, tmp_path, capsys, name
):
    folder = shutil.copytree(trained.folder, tmp_path / "copy")
    assert not fine_tune(ref, rendered, folder, tuning=FAST, label="training", keep_losses=True).ran
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:100])
    assert fine_tune(ref, rendered, folder, tuning=FAST, label="training", keep_losses=True).ran
    assert f"{name} has changed, and is trained again" in capsys.readouterr().err
    assert (folder / name).read_bytes() == content


def test_the_order_of_the_examples_does_not_matter(ref, rendered, trained, tmp_path):
    fine_tune(ref, rendered[::-1], tmp_path, tuning=FAST, label="training")
    same = load_file(tmp_path / "adapter_model.safetensors")
    assert all(
        torch.equal(value, same[name])
        for name, value in load_file(trained.folder / "adapter_model.safetensors").items()
    )


def test_full_fine_tuning_saves_a_model_that_loads(ref, rendered, tmp_path):
    fine_tune(
        ref, rendered, tmp_path, tuning=replace(FAST, method="full", learning_rate=1e-3), label="training"
    )
    before = mean_loss(LanguageModel(ref), rendered)
    assert mean_loss(LanguageModel(ModelRef(name=str(tmp_path), dtype="float32")), rendered) < before - 0.05


def test_only_response_tokens_are_learned(ref, rendered, tmp_path):
    answers = [replace(example, mask=np.zeros_like(example.mask)) for example in rendered[:4]]
    with pytest.raises(TrainError, match="no example with a response token"):
        fine_tune(ref, answers, tmp_path, tuning=FAST, label="training")


def test_the_loss_and_its_gradient_are_those_of_trl(tiny, rendered, monkeypatch):
    network = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    monkeypatch.setitem(loss.LOGITS_AT_ONCE, "cpu", 7 * network.config.vocab_size)  # several chunks
    members = batch_of(list(enumerate(rendered[:6])))
    layout = padded([member.example for member in members])
    ids, parameters = layout.ids, list(network.parameters())
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(rendered[:6]):
        labels[row, : len(example.ids)] = torch.from_numpy(np.where(example.mask, example.ids, -100))
    nll, _ = loss.response_nll(network, inputs_of(members, layout), count=6, forward=network)
    counted = (labels[:, 1:] != -100).sum()
    ours = torch.autograd.grad(nll.sum() / counted, parameters)
    add_fused_lm_head(network)
    seen = torch.arange(ids.shape[1]) < torch.tensor([len(each.ids) for each in rendered[:6]])[:, None]
    output = network(input_ids=ids, attention_mask=seen, labels=labels, fused_lm_head=True)
    torch.testing.assert_close(nll, -output.log_probs.sum(dim=1), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(ours, torch.autograd.grad(output.loss, parameters), rtol=1e-5, atol=1e-6)


def test_the_losses_that_are_kept_are_those_of_the_model(ref, rendered, tmp_path):
    still = replace(FAST, learning_rate=0.0)
    fine_tune(ref, rendered, tmp_path, tuning=still, label="training", keep_losses=True)
    kept = dict(pl.read_parquet(tmp_path / fine_tuning.LAST_EPOCH).select("id", "nll").iter_rows())
    expected = LanguageModel(ref).nll(rendered)
    np.testing.assert_allclose([kept[example.id] for example in rendered], expected, rtol=1e-5)


def test_short_sequences_in_bfloat16_are_learned_the_same_either_way_of_attention(
    tiny, rendered, tmp_path, monkeypatch
):
    half = ModelRef(name=str(tiny), dtype="bfloat16", device="cpu")
    kept = []
    for longest in (0, 256):
        monkeypatch.setattr(passes, "WRITTEN_OUT", longest)
        fine_tune(half, rendered, tmp_path / str(longest), tuning=FAST, label="training", keep_losses=True)
        kept.append(pl.read_parquet(tmp_path / str(longest) / fine_tuning.LAST_EPOCH)["nll"].to_numpy())
    np.testing.assert_allclose(*kept, rtol=0.03)


def test_a_training_leaves_no_tensor_behind(ref, rendered, trained, tmp_path):
    def tensors():
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    before = tensors()
    fine_tune(ref, rendered[:8], tmp_path, tuning=FAST, label="training")
    assert tensors() <= before


def test_rows_on_two_sides_of_a_switch_are_never_in_one_piece(rendered):
    members = share(batch_of(list(enumerate(rendered))), process=0, processes=1)
    lengths = [len(member.example.ids) for member in members]
    border = sorted(lengths)[len(lengths) // 2]
    assert lengths[0] > border >= lengths[-1]
    for padding in (True, False):
        found = list(
            pieces(members, most_tokens=10**6, padding=padding, switches=LengthSwitches(borders=(border,)))
        )
        assert [len(member.example.ids) > border for piece in found for member in piece[:1]] == [True, False]
        assert [member for piece in found for member in piece] == members


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_processes_share_a_batch_without_leaving_a_row_out(rendered, processes):
    members = batch_of(list(enumerate(rendered[:5])))
    rows, counted = [], 0
    for process in range(processes):
        mine = share(members, process=process, processes=processes)
        for piece in pieces(mine, most_tokens=40, padding=True, switches=LengthSwitches()):
            inputs = inputs_of(piece, padded([member.example for member in piece]))
            assert len(piece) == 1 or inputs["input_ids"].numel() <= 40
            rows += [member.row for member in piece] if len(inputs["targets"]) else []
            counted += len(inputs["targets"])
    assert sorted(rows) == list(range(5))
    assert counted == sum(example.mask.sum() for example in rendered[:5])


def drift(lengths, epochs):
    """Return how far longer batches come later, over all epochs, in standard deviations of batches in random order."""
    found = variance = 0.0
    for epoch in epochs:
        excess = np.array([sum(lengths[i] for i in batch) - len(batch) * np.mean(lengths) for batch in epoch])
        place = np.arange(len(epoch)) - (len(epoch) - 1) / 2
        found += excess @ place
        variance += (excess @ excess) * (place @ place) / (len(epoch) - 1)
    return found / np.sqrt(variance)


def test_another_order_begins_with_the_same_adapters(ref):
    first, second = (
        get_peft_model_state_dict(trainable(ref, replace(FAST, order_seed=seed))) for seed in (None, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_constant_schedule_stays_where_it_rose_to():
    tuning = Tuning(warmup=0.2, schedule="constant")
    assert [_height(step, tuning, 10) for step in range(10)] == [0.0, 0.5, *[1.0] * 8]
    falling = [_height(step, replace(tuning, schedule="cosine"), 10) for step in range(2, 10)]
    assert falling == sorted(falling, reverse=True)


class TestLengthGroupedBatches:
    lengths = np.random.default_rng(0).integers(5, 500, size=203).tolist()

    def batches(self, epoch=0, **options):
        return LengthGroupedBatches(self.lengths, batch_size=8, seed=3, **options).epoch(epoch)

    def test_all_batches_but_the_last_are_full(self):
        assert [len(batch) for batch in self.batches()] == [8] * 25 + [3]

    @pytest.mark.parametrize("steps", [1, 19, 60, 203])
    def test_a_number_of_steps_cuts_into_as_many_even_batches(self, steps):
        batches = self.batches(steps_per_epoch=steps)
        sizes = {len(batch) for batch in batches}
        assert len(batches) == steps
        assert max(sizes) - min(sizes) <= 1
        assert sorted(i for batch in batches for i in batch) == list(range(203))

    def test_more_steps_than_examples_are_one_example_each(self):
        assert [len(batch) for batch in self.batches(steps_per_epoch=500)] == [1] * 203

    def test_every_example_comes_once(self):
        assert sorted(i for batch in self.batches() for i in batch) == list(range(203))

    @pytest.mark.parametrize(("epochs", "steps"), [(1, 26), (2, 52), (0.5, 13), (1.01, 27)])
    def test_a_step_takes_the_next_batch_of_its_epoch_whenever_it_is_asked(self, epochs, steps):
        sampler = LengthGroupedBatches(self.lengths, batch_size=8, seed=3, epochs=epochs)
        assert sampler.steps == steps
        expected = [*self.batches(0), *self.batches(1)][:steps]
        assert [sampler.batch(step) for step in range(steps)] == expected
        assert [sampler.batch(step) for step in reversed(range(steps))] == expected[::-1]

    def test_the_order_has_a_seed_of_its_own_where_one_is_given(self, rendered):
        rows = [(row,) for row in rendered]
        seeds = {"seed": Tuning(seed=3), "both": Tuning(seed=5, order_seed=3), "other": Tuning(seed=5)}
        epochs = {name: length_grouped(rows, tuning).epoch(0) for name, tuning in seeds.items()}
        assert epochs["seed"] == epochs["both"] != epochs["other"]

    def test_batches_need_little_padding(self):
        padded = sum(len(batch) * max(self.lengths[i] for i in batch) for batch in self.batches())
        assert padded < 1.15 * sum(self.lengths)

    @pytest.mark.parametrize("steps", [None, 19])
    def test_no_length_is_met_earlier_than_another(self, steps):
        epochs = [self.batches(epoch, steps_per_epoch=steps) for epoch in range(1_000)]
        assert abs(drift(self.lengths, epochs)) < 4

    def test_the_measure_of_drift_sees_batches_in_order_of_length(self):
        order = np.argsort(self.lengths)
        by_length = [order[start : start + 8].tolist() for start in range(0, len(order), 8)]
        epochs = [self.batches(epoch) if epoch % 10 else by_length for epoch in range(300)]
        assert drift(self.lengths, epochs) > 4

    def test_lengths_stand_as_freely_over_one_epoch_as_in_a_random_order(self):
        # Of m batches in random order, the correlation of length and place has a variance of 1 / (m - 1).
        def correlation(epoch):
            means = [np.mean([self.lengths[i] for i in batch]) for batch in self.batches(epoch)[:-1]]
            return np.corrcoef(np.arange(len(means)), means)[0, 1]

        epochs = 300
        squares = 24 * np.square([correlation(epoch) for epoch in range(epochs)])  # mean 1, variance about 2
        assert abs(squares.mean() - 1) < 4 * np.sqrt(2 / epochs)

    def test_epochs_differ_and_repeat(self):
        assert self.batches(epoch=0) != self.batches(epoch=1)
        assert self.batches(epoch=1) == self.batches(epoch=1)


class FavoursHighLosses:
    """Takes what has the highest loss so far; what was not met comes first."""

    def __init__(self, examples, tuning):
        self.steps, self.tuning = 8, tuning
        self.met = [float("inf")] * len(examples)
        self.taken = []

    def batch(self, step):
        assert step == len(self.taken)
        return np.argsort(-np.array(self.met), kind="stable")[: self.tuning.batch_size].tolist()

    def observe(self, step, examples, nll):
        assert nll.shape == (len(examples), 1)
        self.taken.append(list(examples))
        for example, value in zip(examples, nll[:, 0].tolist(), strict=True):
            self.met[example] = value

    def state(self):
        return {"met": self.met, "taken": self.taken}

    def load(self, state):
        self.met, self.taken = list(state["met"]), list(state["taken"])


def test_a_sampler_is_asked_at_each_step_hears_the_losses_and_goes_on_after_a_kill(
    ref, rendered, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_EVERY_S", 0.0)
    made, step = [], Loop.step

    def sampler(examples, tuning):
        made.append(FavoursHighLosses(examples, tuning))
        return made[-1]

    def killed(self):
        if self.done == 7:
            raise KeyboardInterrupt
        step(self)

    options = {"tuning": FAST, "label": "training", "sampler": sampler}
    whole = fine_tune(ref, rendered, tmp_path / "whole", **options)
    with monkeypatch.context() as dying:
        dying.setattr(Loop, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(ref, rendered, tmp_path / "killed", **options)
    fine_tune(ref, rendered, tmp_path / "killed", **options)
    assert len({example for batch in made[0].taken[:6] for example in batch}) == 24
    high = sorted(made[0].taken[6] + made[0].taken[7])
    assert high != sorted(made[0].taken[0] + made[0].taken[1])
    assert made[2].taken == made[0].taken
    lengths = [len(row.ids) for row in sorted(rendered, key=lambda row: row.id)]
    assert whole.tokens == sum(lengths[example] for batch in made[0].taken for example in batch)
    first, second = (load_file(tmp_path / each / "adapter_model.safetensors") for each in ("whole", "killed"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_folds_are_of_equal_size_within_each_source_and_keep_when_the_order_changes():
    ids = [f"id{number}" for number in range(101)]
    sources = ["a" if number % 3 else "b" for number in range(101)]
    fold = assign_folds(ids, sources, folds=4)
    for source in "ab":
        counts = Counter(fold[i] for i in range(101) if sources[i] == source)
        assert max(counts.values()) - min(counts.values()) <= 1
    backwards = assign_folds(ids[::-1], sources[::-1], folds=4)
    assert backwards[::-1].tolist() == fold.tolist()


def test_answers_to_one_prompt_are_in_one_fold():
    prompts = [f"p{number // 3}" for number in range(90)] + [f"q{number}" for number in range(11)]
    sources = ["a" if number % 2 else "b" for number in range(101)]
    fold = assign_folds(prompts, sources, folds=4)
    assert len({(prompt, part) for prompt, part in zip(prompts, fold, strict=True)}) == 41
    for source in "ab":
        counts = Counter(part for part, of in zip(fold, sources, strict=True) if of == source)
        assert max(counts.values()) - min(counts.values()) <= 2


def test_a_model_of_a_fold_has_seen_no_other_answer_to_its_prompts(tiny, tmp_path):
    first = toy_examples(12)
    again = [
        replace(one, messages=(one.messages[0], replace(one.messages[1], content=f"{number}")))
        for one in first
        for number in range(2)
    ]
    data = [write_messages(first, tmp_path / "a.jsonl"), write_messages(again, tmp_path / "b.jsonl")]
    how = Reference(folds=3, learning_rate=1e-2, batch_size=12, rank=2)
    given = {"model": str(tiny), "loading": Loading(dtype="float32"), "output": str(tmp_path / "reference")}
    trained = verbs.train([str(path) for path in data], reference=how, **given)
    part = dict(read_reference(trained.folder).assignment.iter_rows())
    prompts = {}
    for example in load_pool(trained.links["pool"]).iter_examples():
        prompts.setdefault(example.messages[0].content, set()).add(part[example.id])
    assert [len(parts) for parts in prompts.values()] == [1] * 12
    assert set(part.values()) == {0, 1, 2}


def test_another_seed_gives_other_folds():
    examples = toy_examples(40)
    folds = [
        assign_folds([prompt_key(one, draw=seed) for one in examples], ["a"] * 40, folds=2)
        for seed in range(2)
    ]
    assert folds[0].tolist() != folds[1].tolist()


def test_fewer_prompts_than_folds_is_an_error(ref, rendered, tmp_path):
    with pytest.raises(TrainError, match="2 different prompts are too few for 3 folds"):
        train_reference(
            ref, rendered, ["a"] * 24, tmp_path, prompts=["p", "q"] * 12, reference=Reference(folds=3)
        )


def test_no_example_is_scored_by_a_model_that_trained_on_it(ref, rendered, tmp_path, monkeypatch):
    seen = {}

    def remember(ref, examples, folder, **_):
        seen[folder.name] = {answer.id for example in examples for answer in example}
        return fine_tuning.Trained(folder=folder, tokens=1, steps=1, seconds=0.0)

    monkeypatch.setattr("learnable.training.reference.fine_tune", remember)
    sources = ["a"] * len(rendered)
    train_reference(ref, rendered, sources, tmp_path, prompts=ids(rendered), reference=Reference(folds=3))
    references = read_reference(tmp_path)
    for example, part in references.assignment.iter_rows():
        assert example not in seen[f"part-{part}"]
    assert set.union(*seen.values()) == {example.id for example in rendered}


def test_a_fraction_trains_on_that_share(ref, rendered, tmp_path, monkeypatch):
    sizes = []

    def remember(ref, examples, folder, **_):
        sizes.append(len(examples))
        return fine_tuning.Trained(folder=folder, tokens=1, steps=1, seconds=0.0)

    monkeypatch.setattr("learnable.training.reference.fine_tune", remember)
    how = Reference(fraction=0.25)
    train_reference(ref, rendered, ["a"] * 24, tmp_path, prompts=ids(rendered), reference=how)
    assert sizes == [6]


def test_two_folds_cost_what_one_epoch_costs():
    assert Reference(folds=2).passes == Reference(folds=0).passes == 1
    assert Reference(folds=5, epochs=2).passes == 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"folds": 1},
        {"folds": -1},
        {"fraction": 0},
        {"fraction": 1.5},
        {"epochs": 0},
        {"rank": 0},
        {"last_epoch_loss": True, "folds": 2},
        {"last_epoch_loss": True, "fraction": 0.5},
        {"last_epoch_loss": True, "epochs": 1.5},
        {"last_epoch_loss": True, "model": "mine"},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        Reference(**wrong)


def test_fewer_examples_than_folds_is_an_error(ref, rendered, tmp_path):
    with pytest.raises(TrainError, match="too few for 30 folds"):
        train_reference(
            ref, rendered, ["a"] * 24, tmp_path, prompts=ids(rendered), reference=Reference(folds=30)
        )


def test_an_unfinished_reference_is_not_read(tmp_path):
    shutil.rmtree(tmp_path)
    with pytest.raises(TrainError, match="no finished reference"):
        read_reference(tmp_path)


@pytest.fixture(scope="module")
def references(ref, rendered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    how = Reference(learning_rate=1e-2, rank=4, last_epoch_loss=True)
    train_reference(ref, rendered, ["a"] * 24, folder, prompts=ids(rendered), reference=how)
    return read_reference(folder)


class TestLossOfTheLastEpoch:
    @staticmethod
    def frame(rendered):
        counted = [int(example.mask.sum()) for example in rendered]
        return pl.DataFrame({"id": [example.id for example in rendered], "response_tokens": counted})

    def test_it_is_per_response_token_in_the_order_asked_for(self, references, rendered):
        frame = self.frame(rendered[::-1])
        nll = dict(references.last_epoch.select("id", "nll").iter_rows())
        expected = [nll[example] / tokens for example, tokens in frame.iter_rows()]
        np.testing.assert_allclose(references.last_epoch_loss(frame), expected, rtol=1e-6)

    def test_an_answer_that_was_cut_off_has_none(self, references):
        frame = pl.DataFrame({"id": ["cut"], "response_tokens": [0]})
        assert np.isnan(references.last_epoch_loss(frame)[0])

    def test_an_example_that_was_not_trained_on_is_an_error(self, references):
        frame = pl.DataFrame({"id": ["another"], "response_tokens": [3]})
        with pytest.raises(TrainError, match="1 of 1 examples were not trained on"):
            references.last_epoch_loss(frame)

    def test_another_length_limit_is_an_error(self, references, rendered):
        frame = self.frame(rendered).with_columns(pl.col("response_tokens") - 1)
        with pytest.raises(TrainError, match="not to the same length"):
            references.last_epoch_loss(frame)


def test_a_reference_of_which_a_part_is_made_again_costs_both(tiny, tmp_path):
    rows = write_messages(toy_examples(24), tmp_path / "rows.jsonl")
    how = Reference(folds=2, learning_rate=1e-2, batch_size=4, rank=2)
    given = {"model": str(tiny), "loading": Loading(dtype="float32"), "reference": how}
    first = verbs.train([str(rows)], output=str(tmp_path / "reference"), **given)
    part = json.loads((tmp_path / "reference" / "part-0" / "training.json").read_text())
    shutil.rmtree(tmp_path / "reference" / "part-0")
    again = verbs.train([str(rows)], output=str(tmp_path / "reference"), **given)
    assert again.cost.tokens == first.cost.tokens + part["tokens"]
