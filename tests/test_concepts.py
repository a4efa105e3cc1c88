"""The distance between a token and the words that describe it, against states taken layer by layer."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from learnable.commands.task_arms import token_distances
from learnable.errors import ModelError, UsageError
from learnable.models import concepts
from learnable.models.concepts import comparable_prompts, concept_distances
from learnable.models.language_model import LanguageModel
from learnable.settings import Tuning
from learnable.testing import tiny_model, toy_examples
from learnable.training import fine_tune
from learnable.types import Example, Message, ModelRef

LAYERS = 2
QUESTIONS = [example.messages[:1] for example in toy_examples(7)]


def user(text):
    return (Message(role="user", content=text),)


def written(content):
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def loaded(folder, **options):
    return LanguageModel(ModelRef(name=str(folder), **({"dtype": "float32", "device": "cpu"} | options)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a tiny model with a new token ``<sep>`` whose row is the mean of those of `` big red``."""
    folder = tiny_model(tmp_path_factory.mktemp("sep"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_tokens(["<sep>"], special_tokens=True)
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = network.get_input_embeddings().weight.data
    words = tokenizer("big red", add_special_tokens=False)["input_ids"]
    rows[tokenizer.convert_tokens_to_ids("<sep>")] = rows[words].mean(dim=0)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return loaded(folder)


def states(model, text):
    """Return the embeddings, the first layer's output and the final norm's of a text, without hidden_states."""
    inner, taken = model.network.model, []
    modules = [inner.embed_tokens, inner.layers[0], inner.norm]
    handles = [
        module.register_forward_hook(
            lambda _, __, output: taken.append(output[0] if output.ndim == 3 else output)
        )
        for module in modules
    ]
    with torch.inference_mode():
        model.network(input_ids=torch.tensor([model.renderer.tokenizer(text)["input_ids"]]))
    for handle in handles:
        handle.remove()
    return torch.stack(taken).double().numpy()


def by_hand(model, content, *, token, words):
    """Return the distances, with the tokens in question found by tokenizing each part of the text by itself."""
    means = []
    for filling in (token, words):
        ids, inside = [], []
        for number, piece in enumerate(written(content).split(token)):
            for part, counts in ((filling, True), (piece, False)) if number else ((piece, False),):
                part_ids = model.renderer.tokenizer(part)["input_ids"]
                ids += part_ids
                inside += [counts] * len(part_ids)
        text = written(content).replace(token, filling)
        assert model.renderer.tokenizer(text)["input_ids"] == ids
        means.append(states(model, text)[:, inside].mean(axis=1))
    return np.linalg.norm(means[0] - means[1], axis=1)


@pytest.mark.parametrize(
    ("content", "token", "words"),
    [
        ("what colour is the<sep> sun", "<sep>", " big"),
        ("what colour is the<sep> sun", "<sep>", " big red"),
        ("the<sep> of the<sep> is<sep>", "<sep>", " big red"),
        ("what is the<json> sun", "<json>", " big red"),
        ("what is the big red sun", " big red", "<sep>"),
    ],
)
def test_distances_by_hand(model, content, token, words):
    distances = concept_distances(model, [user(content)], token=token, words=words)
    assert distances.shape == (LAYERS + 1, 1)
    assert distances.dtype == np.float64
    np.testing.assert_allclose(
        distances[:, 0], by_hand(model, content, token=token, words=words), rtol=1e-4, atol=1e-5
    )
    assert distances[1:].min() > 0.01


def test_a_row_that_is_the_mean_of_its_words_starts_at_no_distance(model):
    (at_rest, first, _) = concept_distances(model, [user("<sep>")], token="<sep>", words="big red")[:, 0]
    assert at_rest < 1e-6 < first


def test_words_that_are_the_token_are_at_no_distance(model):
    distances = concept_distances(model, [user("a <sep> b")], token="<sep>", words="<sep>")
    np.testing.assert_array_equal(distances, 0)


def test_a_prompt_without_the_token_is_undefined_and_the_others_stay(model):
    prompts = [QUESTIONS[0], user("a<sep>"), QUESTIONS[1]]
    distances = concept_distances(model, prompts, token="<sep>", words="red")
    assert np.isnan(distances).tolist() == [[True, False, True]] * (LAYERS + 1)


def test_what_the_template_writes_is_not_the_token(model):
    distances = concept_distances(model, [user("what is red")], token="user", words="cat")
    assert np.isnan(distances).all()


def test_all_turns_count(model):
    turns = (Message(role="system", content="use<sep>"), *user("sun"))
    assert np.isfinite(concept_distances(model, [turns], token="<sep>", words="red")).all()


@pytest.mark.parametrize("elements", [1, 20_000, 1 << 25])
def test_batches_change_nothing(model, monkeypatch, elements):
    prompts = [user(f"{prompt[0].content}<sep>{'sun ' * number}") for number, prompt in enumerate(QUESTIONS)]
    alone = [concept_distances(model, [prompt], token="<sep>", words=" big red")[:, 0] for prompt in prompts]
    monkeypatch.setattr(concepts, "STATES_AT_ONCE", {"cpu": elements})
    together = concept_distances(model, prompts, token="<sep>", words=" big red")
    np.testing.assert_allclose(together.T, alone, rtol=1e-4, atol=1e-5)


def test_an_adapter_that_is_worn_counts(folder, tmp_path):
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    peft.get_peft_model(loaded(folder).network, config).save_pretrained(tmp_path)
    model, prompts = loaded(folder), [user("a<sep>")]
    before = concept_distances(model, prompts, token="<sep>", words="red")
    with model.adapter(tmp_path):
        worn = concept_distances(model, prompts, token="<sep>", words="red")
    np.testing.assert_array_equal(concept_distances(model, prompts, token="<sep>", words="red"), before)
    assert worn[0] == before[0]
    assert abs(worn[1:] - before[1:]).min() > 1e-3


def test_the_trained_row_of_a_token_counts(folder, model, tmp_path):
    rendered = model.renderer.render(
        [Example(id="a", messages=(*user("a<sep>"), Message(role="assistant", content="red")), source="s")],
        max_length=64,
    )
    token = model.renderer.tokenizer.convert_tokens_to_ids("<sep>")
    options = {"tuning": Tuning(rank=2, learning_rate=0.1, batch_size=1, epochs=2), "label": "training"}
    fine_tune(model.ref, rendered, tmp_path, token_ids=[token], **options)
    trained = loaded(folder)
    with trained.adapter(tmp_path):
        distances = concept_distances(trained, [user("<sep>")], token="<sep>", words="big red")
    assert distances[0, 0] > 0.01


def test_bfloat16_gives_about_the_same(folder, model):
    prompts = [user("what is the<sep> sun")]
    rounded = concept_distances(loaded(folder, dtype="bfloat16"), prompts, token="<sep>", words="red")
    exact = concept_distances(model, prompts, token="<sep>", words="red")
    np.testing.assert_allclose(rounded, exact, rtol=0.03, atol=0.03)


def test_no_prompts(model):
    assert concept_distances(model, [], token="<sep>", words="red").shape == (LAYERS + 1, 0)


@pytest.mark.parametrize(("token", "words"), [("", "red"), ("<sep>", ""), (" ", "red")])
def test_nothing_has_no_distance(model, token, words):
    with pytest.raises(UsageError, match="needs a token and the words"):
        concept_distances(model, [user("a<sep>")], token=token, words=words)


def test_a_prompt_that_is_too_long_is_refused(model):
    with pytest.raises(ModelError, match="longer than the 256 positions"):
        concept_distances(model, [user("sun " * 300 + "<sep>")], token="<sep>", words="red")


def test_a_prompt_that_the_template_refuses(tmp_path):
    template = (
        "{{ raise_exception('no system turn') if messages[0].role == 'system' }}{{ messages[-1].content }}"
    )
    model = loaded(tiny_model(tmp_path, template=template))
    with pytest.raises(ModelError, match="no system turn"):
        concept_distances(model, [(Message(role="system", content="a"), *user("b"))], token="b", words="red")


def asked(*turns):
    return Example(id="-".join(turn.content[:9] for turn in turns), messages=turns, source="tests")


ANSWER = Message(role="assistant", content="red <sep>")
LONG = user("sun " * 300 + "<sep>")
TIGHT = user("sun " * 230 + "<sep>")  # the token fits the positions, ten words in its place do not


def test_prompts_that_cannot_be_compared_are_left_out(model):
    prompts = [QUESTIONS[0], LONG, TIGHT, user("a<sep>"), user("b<sep>"), user("c<sep>")]
    words = ["red", "big red " * 10]
    taken = comparable_prompts(model, prompts, token="<sep>", words=words, most=2)
    assert taken == [user("a<sep>"), user("b<sep>")]
    assert comparable_prompts(model, [TIGHT], token="<sep>", words=words[:1], most=2) == [TIGHT]


def test_a_prompt_that_the_template_refuses_is_left_out(tmp_path):
    template = (
        "{{ raise_exception('no system turn') if messages[0].role == 'system' }}"
        "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}"
    )
    model = loaded(tiny_model(tmp_path, template=template))
    refused = (Message(role="system", content="<sep>"), *user("b"))
    options = {"token": "<sep>", "words": ["red"], "most": 9}
    assert comparable_prompts(model, [refused, user("<sep>")], **options) == [user("<sep>")]


def test_the_table_counts_the_prompts_that_are_compared(model):
    tests = [asked(*turns, ANSWER) for turns in (QUESTIONS[0], LONG, user("a<sep>"), user("b <sep>"))]
    table = token_distances(model, None, concepts={"<sep>": ["red"]}, tests=tests)
    by_hand = concept_distances(model, [user("a<sep>"), user("b <sep>")], token="<sep>", words="red")
    assert table["prompts"].to_list() == [2] * (LAYERS + 1)
    np.testing.assert_allclose(table["distance"], by_hand.mean(axis=1))


def test_no_prompt_to_compare_is_undefined_without_a_warning(model):
    table = token_distances(
        model, None, concepts={"<sep>": ["red"]}, tests=[asked(*QUESTIONS[0], ANSWER), asked(*LONG)]
    )
    assert table["prompts"].to_list() == [0] * (LAYERS + 1)
    assert table["distance"].is_nan().all()
