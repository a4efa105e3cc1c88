"""Several trainings as one model: the rules on numbers worked by hand, and the walk over the tensors of tiny models."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnable.errors import ModelError, UsageError
from learnable.merging import (
    AverageMerger,
    NoiseMerger,
    SelectMerger,
    drawn,
    parse_merger,
    probabilities,
    redrawn,
    stream,
)
from learnable.models.weights import quiet
from learnable.training import Base, copies_of, merge_copies, merging
from learnable.types import ModelRef

CHANGES = np.array([[1, 0, 2, 0], [3, 0, 0, 4]], dtype=np.float32)
"""Of two models, from a base of zeros."""
BASE = np.zeros(4, dtype=np.float32)
MERGERS = (SelectMerger(), SelectMerger(resample=False), AverageMerger(), NoiseMerger())


def merged(merger, values=CHANGES, base=BASE, *, seed=0):
    moved = values != base
    return merger(values, base=base, moved=moved, rng=stream(seed, "weight"))


class TestRules:
    def test_choices_by_hand(self):
        choices = np.array([0, 1, 1, 0], dtype=np.uint8)
        taken = np.take_along_axis(CHANGES, choices[None], axis=0)[0]
        assert taken.tolist() == [1, 0, 0, 0]
        again = redrawn(choices, CHANGES != 0, probabilities((), 2), stream(0, ""))
        assert np.take_along_axis(CHANGES, again[None], axis=0)[0].tolist() == [1, 0, 2, 4]

    def test_a_model_of_probability_0_is_never_redrawn(self):
        choices, moved = np.zeros(50, dtype=np.uint8), np.array([[False] * 50, [True] * 50, [True] * 50])
        assert set(redrawn(choices, moved, probabilities((0.5, 0.5, 0), 3), stream(0, ""))) == {1}
        assert set(redrawn(choices, moved, probabilities((1, 0, 0), 3), stream(0, ""))) == {0}

    def test_redrawing_is_in_proportion_to_the_probabilities(self):
        moved = np.array([[False], [True], [True]]).repeat(20_000, axis=1)
        weights = probabilities((0.5, 0.2, 0.3), 3)
        found = redrawn(np.zeros(20_000, dtype=np.uint8), moved, weights, stream(0, ""))
        assert np.mean(found == 2) == pytest.approx(0.6, abs=5 * np.sqrt(0.24 / 20_000))

    @pytest.mark.parametrize("resample", [True, False])
    def test_all_probability_on_one_model_is_that_model_to_the_bit(self, resample):
        values = np.random.default_rng(0).normal(size=(2, 1_000)).astype(np.float32)
        merger = SelectMerger(p=(1, 0), resample=resample)
        assert np.array_equal(merged(merger, values, np.zeros(1_000, np.float32)), values[0])

    @pytest.mark.parametrize("merger", MERGERS, ids=repr)
    def test_equal_models_are_unchanged(self, merger):
        one = np.random.default_rng(0).normal(size=999).astype(np.float32)
        assert np.array_equal(merged(merger, np.stack([one] * 3), np.zeros_like(one)), one)

    def test_every_scalar_is_that_of_one_model(self):
        values = np.random.default_rng(0).normal(size=(3, 1_000)).astype(np.float32)
        found = merged(SelectMerger(), values, np.zeros(1_000, np.float32))
        assert (values == found).any(axis=0).all()

    @pytest.mark.parametrize(
        "merger", [SelectMerger(p=(0.3, 0.7), resample=False), NoiseMerger(p=(0.3, 0.7))]
    )
    def test_mean_and_variance_are_those_of_the_models(self, merger):
        """Selection, and noise of the same spread: 10,000 draws for each of the four scalars."""
        many = np.repeat(CHANGES[:, :, None], 10_000, axis=2)
        found = merged(merger, many, np.zeros(many.shape[1:], np.float32))
        mean = 0.3 * CHANGES[0] + 0.7 * CHANGES[1]
        spread = np.sqrt(0.3 * 0.7) * np.abs(CHANGES[0] - CHANGES[1])
        assert np.all(np.abs(found.mean(axis=1) - mean) <= 5 * spread / 100 + 1e-6)
        assert found.std(axis=1) == pytest.approx(spread, rel=0.05)
        assert merged(AverageMerger(p=(0.3, 0.7))) == pytest.approx(mean)

    def test_models_in_another_order_with_their_probabilities_are_drawn_alike(self):
        values = np.repeat(np.array([[1.0], [2.0], [3.0]], dtype=np.float32), 20_000, axis=1)
        base = np.zeros(20_000, np.float32)
        one = Counter(merged(SelectMerger(p=(0.5, 0.3, 0.2)), values, base).tolist())
        other = Counter(merged(SelectMerger(p=(0.2, 0.3, 0.5)), values[::-1], base, seed=1).tolist())
        assert {key: count / 20_000 for key, count in one.items()} == pytest.approx(
            {key: count / 20_000 for key, count in other.items()}, abs=5 * np.sqrt(0.5 / 20_000)
        )

    def test_draws_depend_on_seed_and_tensor_alone(self):
        draws = [
            drawn(probabilities((), 3), (64,), stream(*key))
            for key in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
        ]
        assert np.array_equal(draws[0], draws[1])
        assert not np.array_equal(draws[0], draws[2])
        assert not np.array_equal(draws[0], draws[3])

    @pytest.mark.parametrize(
        ("written", "said"),
        [
            ("select@p=0.5,0.6", "sum to 1.1"),
            ("select@p=0.5,0.2,0.3", "3 probabilities for 2 models"),
            ("average@p=1.5,-0.5", "at least 0"),
            ("mean", "no way to merge"),
            ("select@resamples=yes", "no setting"),
            ("ties@density=x", "density=x"),
        ],
    )
    def test_what_cannot_be_a_merge_is_refused(self, written, said):
        with pytest.raises(UsageError, match=said):
            parse_merger(written).check(2)

    def test_one_model_is_no_merge(self):
        with pytest.raises(UsageError, match="at least 2 models, got 1"):
            SelectMerger().check(1)

    def test_a_merger_is_written_with_its_settings(self):
        written = parse_merger("select@p=0.5,0.3,0.2,resample=no,seed=4")
        assert written == SelectMerger(p=(0.5, 0.3, 0.2), resample=False, seed=4)


def save_copy(tiny, folder, *, seed, scale=0.01, dtype=torch.float32, **saved):
    """Write the tiny model with random changes of all its weights."""
    network = AutoModelForCausalLM.from_pretrained(tiny)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight += scale * torch.randn(weight.shape, generator=rng)
    with quiet():
        network.to(dtype).save_pretrained(folder, **saved)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def save_adapter(tiny, folder, *, seed, rank=3, **settings):
    network = AutoModelForCausalLM.from_pretrained(tiny)
    config = LoraConfig(r=rank, lora_alpha=5, target_modules=["q_proj", "down_proj"], **settings)
    adapted = get_peft_model(network, config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=rng))
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tiny):
    return Base.of(ModelRef(name=str(tiny), dtype="float32"))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    return [str(save_copy(tiny, root / str(seed), seed=seed)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def adapters(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [str(save_adapter(tiny, root / str(seed), seed=seed)) for seed in (1, 2)]


def weights(folder):
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def merge(base, names, folder, by="average", **more):
    return merge_copies(base, copies_of(base, names), folder, merger=parse_merger(by), **more)


class TestWalk:
    def test_the_average_is_that_of_the_tensors_and_plain_transformers_load_it(self, base, whole, tmp_path):
        seen = merge(base, whole, tmp_path / "out")
        network, left = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
        one, other = (AutoModelForCausalLM.from_pretrained(name).state_dict() for name in whole)
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, (one[name] + other[name]) / 2, rtol=1e-6, atol=1e-7)
        assert not left["missing_keys"]
        assert (seen.zero, seen.replaceable, seen.rounding, seen.equal) == (0, 0, 0, [])
        assert abs(seen.cosines[0][1]) < 0.05

    def test_sharded_files_give_the_same_bits(self, tiny, base, whole, tmp_path, monkeypatch):
        parts = [
            save_copy(tiny, tmp_path / f"in-{seed}", seed=seed, max_shard_size="20KB") for seed in (1, 2)
        ]
        assert len(list(parts[0].glob("*.safetensors"))) > 1
        merge(base, whole, tmp_path / "one", "select")
        monkeypatch.setattr(merging, "SHARD_BYTES", 20_000)
        merge(base, [str(part) for part in parts], tmp_path / "several", "select")
        assert len(list((tmp_path / "several").glob("*.safetensors"))) > 1
        one, several = weights(tmp_path / "one"), weights(tmp_path / "several")
        assert all(torch.equal(one[name], several[name]) for name in one | several)
        AutoModelForCausalLM.from_pretrained(tmp_path / "several")

    def test_pieces_of_a_tensor_are_merged_as_the_whole_average(self, base, whole, tmp_path, monkeypatch):
        merge(base, whole, tmp_path / "whole")
        monkeypatch.setattr(merging, "PIECE", 1_000)
        merge(base, whole, tmp_path / "pieces")
        one, other = weights(tmp_path / "whole"), weights(tmp_path / "pieces")
        assert all(torch.equal(one[name], other[name]) for name in one | other)

    def test_an_adapter_is_merged_as_peft_merges_it(self, tiny, base, adapters, tmp_path):
        merge(base, adapters, tmp_path / "out", "select@p=1,0")
        ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
        network = AutoModelForCausalLM.from_pretrained(tiny)
        theirs = PeftModel.from_pretrained(network, adapters[0]).merge_and_unload().state_dict()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7)

    def test_the_average_of_adapters_is_that_of_their_products(self, base, adapters, tmp_path):
        seen = merge(base, adapters, tmp_path / "out", rank=6)
        assert seen.energy == pytest.approx(1, abs=1e-6)
        alone = [copies_of(base, [name])[0] for name in (*adapters, str(tmp_path / "out"))]
        for weight in alone[0].factors:
            one, other, found = (copy.change(weight) for copy in alone)
            torch.testing.assert_close(found, (one + other) / 2, rtol=1e-4, atol=1e-6)

    def test_an_adapter_of_lower_rank_says_what_it_keeps(self, base, adapters, tmp_path):
        seen = merge(base, adapters, tmp_path / "out", rank=2)
        both, kept = 0.0, 0.0
        first, second = copies_of(base, adapters)
        for weight in first.factors:
            energy = torch.linalg.svdvals((first.change(weight) + second.change(weight)) / 2) ** 2
            both, kept = both + float(energy.sum()), kept + float(energy[:2].sum())
        assert seen.energy == pytest.approx(kept / both, rel=1e-4)

    def test_tied_embeddings_are_merged_once_and_stay_tied(self, tiny, tmp_path):
        network = AutoModelForCausalLM.from_pretrained(tiny, tie_word_embeddings=True)
        network.save_pretrained(tmp_path / "base")
        AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "base")
        names = [str(save_copy(tmp_path / "base", tmp_path / str(seed), seed=seed)) for seed in (1, 2)]
        # As other programs write it: the output embedding too.
        held = load_file(tmp_path / "1" / "model.safetensors")
        save_file(
            {**held, "lm_head.weight": held["model.embed_tokens.weight"].clone()},
            tmp_path / "1" / "model.safetensors",
            {"format": "pt"},
        )
        base = Base.of(ModelRef(name=str(tmp_path / "base"), dtype="float32"))
        merge(base, names, tmp_path / "out", "select")
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert "lm_head.weight" not in weights(tmp_path / "out")
        assert found.lm_head.weight is found.model.embed_tokens.weight

    def test_equal_models_are_named(self, base, whole, tmp_path):
        assert merge(base, [whole[0], whole[1], whole[0]], tmp_path / "out").equal == [(0, 2)]

    def test_what_rounding_leaves_unmoved_counts_as_zero_and_is_resampled(self, tiny, tmp_path):
        """Base and models in bfloat16, whose changes are mostly below half of its steps."""
        root = save_copy(tiny, tmp_path / "base", seed=0, scale=0, dtype=torch.bfloat16)
        names = [
            str(save_copy(root, tmp_path / str(seed), seed=seed, scale=3e-4, dtype=torch.bfloat16))
            for seed in (1, 2)
        ]
        base = Base.of(ModelRef(name=str(root), dtype="bfloat16"))
        seen = merge(base, names, tmp_path / "plain", "select@resample=no")
        merge(base, names, tmp_path / "again", "select")
        origin, *both, plain, again = (
            torch.cat([value.flatten() for _, value in sorted(weights(folder).items())])
            for folder in (root, *map(type(root), names), tmp_path / "plain", tmp_path / "again")
        )
        moved = [copy != origin for copy in both]
        assert 0.1 < seen.zero < 0.95
        assert seen.zero == pytest.approx(1 - float(sum(each.float().mean() for each in moved)) / 2)
        assert seen.replaceable == pytest.approx(float((moved[0] ^ moved[1]).float().mean()))
        assert torch.equal(again != origin, moved[0] | moved[1])
        assert (plain != origin).sum() < (again != origin).sum()

    def test_rounding_is_a_share_of_the_change(self, tiny, tmp_path):
        root = save_copy(tiny, tmp_path / "base", seed=0, scale=0, dtype=torch.bfloat16)
        base = Base.of(ModelRef(name=str(root), dtype="bfloat16"))
        adapters = [str(save_adapter(root, tmp_path / str(seed), seed=seed)) for seed in (1, 2)]
        rounded = merge(base, adapters, tmp_path / "rounded")
        exact = merge(base, adapters, tmp_path / "exact", dtype="float32")
        assert 1e-3 < rounded.rounding < 0.5
        assert exact.rounding == 0
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "exact", dtype="auto")
        assert saved.dtype == torch.float32

    def test_a_merge_that_is_there_is_not_made_again(self, base, whole, tmp_path):
        first = merge(base, whole, tmp_path / "out")
        when = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
        assert merge(base, whole, tmp_path / "out") == first
        assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == when


class TestRefusals:
    def changed(self, whole, folder, change):
        """Copy a model with its tensors changed."""
        tokenizer, source = AutoTokenizer.from_pretrained(whole[0]), type(folder)(whole[0])
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text((source / "config.json").read_text())
        tensors = load_file(source / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return [whole[1], str(folder)]

    def test_another_shape_names_the_tensor_and_both_shapes(self, base, whole, tmp_path):
        def change(tensors):
            tensors["model.embed_tokens.weight"] = torch.zeros(405, 32)

        names = self.changed(whole, tmp_path / "other", change)
        rows = base.tensors.shape("model.embed_tokens.weight")[0]
        with pytest.raises(
            ModelError, match=rf"model.embed_tokens.weight is \({rows}, 32\) in .* and \(405, 32\)"
        ):
            copies_of(base, names)

    def test_a_missing_tensor_is_named(self, base, whole, tmp_path):
        names = self.changed(whole, tmp_path / "other", lambda tensors: tensors.pop("model.norm.weight"))
        with pytest.raises(ModelError, match=r"model.norm.weight is .* and not in"):
            copies_of(base, names)

    def test_values_that_are_no_numbers_are_named(self, base, whole, tmp_path):
        def change(tensors):
            tensors["model.norm.weight"][3] = float("nan")

        names = self.changed(whole, tmp_path / "other", change)
        with pytest.raises(ModelError, match=r"model\.norm\.weight has 1 values"):
            merge(base, names, tmp_path / "out")
        assert not (tmp_path / "out" / "config.json").exists()

    def test_another_tokenizer_is_refused(self, base, whole, tmp_path):
        names = self.changed(whole, tmp_path / "other", lambda _: None)
        file = tmp_path / "other" / "tokenizer.json"
        content = json.loads(file.read_text())
        vocabulary = content["model"]["vocab"]
        one, other = list(vocabulary)[-2:]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        file.write_text(json.dumps(content))
        with pytest.raises(ModelError, match="another tokenizer"):
            copies_of(base, names)

    def test_quantized_weights_are_refused(self, base, whole, tmp_path):
        names = self.changed(whole, tmp_path / "other", lambda _: None)
        file = tmp_path / "other" / "config.json"
        quantized = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
        file.write_text(json.dumps(json.loads(file.read_text()) | quantized))
        with pytest.raises(ModelError, match=r"quantized \(gptq\)"):
            copies_of(base, names)

    def test_adapters_of_different_bases_are_refused(self, base, adapters, tmp_path, tiny_models):
        other = save_adapter(tiny_models["base"], tmp_path / "other", seed=3)
        file = tmp_path / "other" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "some/other"}))
        with pytest.raises(ModelError, match="different bases"):
            copies_of(base, [adapters[0], str(other)])

    def test_another_base_than_that_of_the_adapters_is_refused(self, tiny, adapters, tmp_path):
        root = save_copy(tiny, tmp_path / "other", seed=7)
        with pytest.raises(ModelError, match="which is not the base"):
            copies_of(Base.of(ModelRef(name=str(root), dtype="float32")), adapters)

    def test_an_adapter_of_another_shape_is_refused(self, base, adapters, tmp_path):
        folder = tmp_path / "other"
        folder.mkdir()
        source = type(folder)(adapters[0])
        (folder / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
        tensors = load_file(source / "adapter_model.safetensors")
        name = next(name for name in tensors if "lora_A" in name)
        save_file({**tensors, name: torch.zeros(3, 7)}, folder / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="trained on another base"):
            copies_of(base, [adapters[1], str(folder)])

    def test_an_adapter_that_is_more_than_two_factors_is_refused(self, tiny, base, adapters, tmp_path):
        other = save_adapter(tiny, tmp_path / "dora", seed=3, use_dora=True)
        with pytest.raises(ModelError, match="use_dora is True"):
            copies_of(base, [adapters[0], str(other)])

    def test_a_rank_is_of_adapters(self, base, whole, adapters, tmp_path):
        with pytest.raises(UsageError, match="whole model"):
            merge(base, [adapters[0], whole[0]], tmp_path / "out", rank=2)


class TestMergekit:
    def test_its_methods_take_our_tensors(self, base, whole, tmp_path):
        pytest.importorskip("mergekit")
        merge(base, whole, tmp_path / "kit", "task_arithmetic@p=0.25,0.75")
        merge(base, whole, tmp_path / "ours", "average@p=0.25,0.75")
        ours, theirs = weights(tmp_path / "ours"), weights(tmp_path / "kit")
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-6)

    def test_ties_trims_elects_and_averages(self):
        """By hand, all kept: +1 and +3 agree, +2 and -4 elect minus, and 0 takes no part."""
        pytest.importorskip("mergekit")
        values = np.array([[1, 2, 0], [3, -4, 4]], dtype=np.float32)
        assert merged(parse_merger("ties"), values, np.zeros(3, np.float32)).tolist() == [2, -4, 4]

    def test_its_draws_come_from_the_seed(self):
        pytest.importorskip("mergekit")
        values = np.random.default_rng(0).normal(size=(2, 500)).astype(np.float32)
        dare = replace(parse_merger("dare_linear@density=0.5"))
        one, again, other = (merged(dare, values, np.zeros(500, np.float32), seed=seed) for seed in (0, 0, 1))
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)

    @pytest.mark.parametrize("written", ["ties@density=0", "ties@no=1", "model_stock@p=1,1"])
    def test_what_it_does_not_take_is_refused(self, written):
        pytest.importorskip("mergekit")
        with pytest.raises(UsageError):
            parse_merger(written).check(2)
