"""Answers of a model: batches change nothing, stops are kept, sampling is by seed."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from learnable.errors import ModelError, UsageError
from learnable.model import LanguageModel, Renderer, generation, language_model
from learnable.model.generation import _nucleus, generate, generate_batches
from learnable.testing import tiny_model, toy_examples
from learnable.types import Answer, Message, ModelRef, Sampling

LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTIONS = [example.messages[:1] for example in toy_examples(9)]


def user(text):
    return (Message(role="user", content=text),)


@pytest.fixture(scope="module")
def model(tiny):
    return LanguageModel(ModelRef(name=str(tiny), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def prompts(model):
    return [model.renderer.prompt_ids(question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def one_by_one(model, prompts):
    tokenizer = model.renderer.tokenizer
    return [generate(model.network, tokenizer, [prompt], max_new_tokens=12)[0] for prompt in prompts]


def greedy_by_hand(network, prompt, *, steps, stops):
    ids = [int(token) for token in prompt]
    for _ in range(steps):
        with torch.inference_mode():
            token = int(network(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_prompt_is_what_the_template_writes_for_generation(model):
    turns = [{"role": "user", "content": "what colour"}]
    written = model.renderer.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = model.renderer.prompt_ids(user("what colour"))
    assert ids.dtype == np.int32
    assert model.renderer.decode(ids) == written


def test_prompt_of_a_base_model(tiny_models):
    renderer = Renderer.of(ModelRef(name=str(tiny_models["base"])))
    assert (
        renderer.decode(renderer.prompt_ids(user("what is red ?")))
        == "### Instruction:\nwhat is red ?\n\n### Response:\n"
    )


def test_prompt_leaves_the_space_before_an_answer_to_the_answer(tmp_path):
    renderer = Renderer.of(ModelRef(name=str(tiny_model(tmp_path, template=LLAMA_2))))
    assert renderer.decode(renderer.prompt_ids(user("sun"))) == "[INST] sun [/INST]"


def test_prompt_has_the_empty_thoughts_that_stand_before_trained_answers(tmp_path):
    renderer = Renderer.of(ModelRef(name=str(tiny_model(tmp_path, template=THINKING))))
    assert renderer.decode(renderer.prompt_ids(user("sun"))).endswith("assistant\n<think>\n\n</think>\n\n")


def test_prompt_is_the_beginning_of_the_rendered_example(model):
    for example in toy_examples(3, turns=2):
        ids = model.renderer.render([example], max_length=500)[0].ids
        prompt = model.renderer.prompt_ids(example.messages[:3])
        assert ids[: len(prompt)].tolist() == prompt.tolist()


def test_prompt_that_the_template_refuses(tmp_path):
    template = "{{ raise_exception('no system turn') if messages[0]['role'] == 'system' else messages[0]['content'] }}"
    renderer = Renderer.of(
        ModelRef(name=str(tiny_model(tmp_path, template=template + "{{ messages[-1].content }}")))
    )
    with pytest.raises(ModelError, match="no system turn"):
        renderer.prompt_ids((Message(role="system", content="be brief"), *user("sun")))


def test_stops_are_the_end_of_turn_and_the_end_of_sequence(model):
    tokenizer = model.renderer.tokenizer
    assert model.renderer.stop_ids == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)


@pytest.mark.parametrize("batch_tokens", [1, 60, 120, 10_000])
def test_batches_change_nothing(model, prompts, one_by_one, batch_tokens):
    tokenizer = model.renderer.tokenizer
    answers = generate(model.network, tokenizer, prompts, max_new_tokens=12, batch_tokens=batch_tokens)
    assert answers == one_by_one
    assert len(set(answers)) > 3


def test_greedy_is_the_largest_logit_of_each_step(model, prompts, one_by_one):
    for prompt, answer in list(zip(prompts, one_by_one, strict=True))[:3]:
        tokens = greedy_by_hand(model.network, prompt, steps=12, stops=model.renderer.stop_ids)
        assert model.renderer.tokenizer.decode(tokens, skip_special_tokens=True) == answer


def test_settings_that_a_model_ships_do_not_count(model, prompts, one_by_one, monkeypatch):
    shipped = GenerationConfig(repetition_penalty=5.0, do_sample=True, temperature=3.0, max_length=20)
    monkeypatch.setattr(model.network, "generation_config", shipped)
    assert generate(model.network, model.renderer.tokenizer, prompts, max_new_tokens=12) == one_by_one
    assert model.network.generation_config is shipped


def test_stops_at_the_end_token(model, prompts):
    tokenizer = model.renderer.tokenizer
    free = greedy_by_hand(model.network, prompts[0], steps=12, stops=())
    stop = free[4]
    expected = tokenizer.decode(free[: free.index(stop)], skip_special_tokens=True)
    answers = generate(model.network, tokenizer, prompts[:3], max_new_tokens=12, stop_ids=[stop])
    assert answers[0] == expected


def test_answers_outside_only_are_left_out_and_the_batches_stay(model, prompts, one_by_one):
    options = {"max_new_tokens": 12, "batch_tokens": 150}
    tokenizer = model.renderer.tokenizer
    every = [positions for positions, _ in generate_batches(model.network, tokenizer, prompts, **options)]
    some = dict(
        pair
        for positions, texts in generate_batches(model.network, tokenizer, prompts, only={1, 4}, **options)
        for pair in zip(positions, texts, strict=True)
    )
    assert 1 < len(every) < len(prompts)
    assert {position: answer.text for position, answer in some.items()} == {
        1: one_by_one[1],
        4: one_by_one[4],
    }


def test_sampling_depends_on_the_seed_alone(model):
    options = {"max_new_tokens": 8, "temperature": 1.0}
    seeds = range(len(QUESTIONS))
    together = model.generate(QUESTIONS, seeds=seeds, **options)
    alone = [model.generate([q], seeds=[s], **options)[0] for q, s in zip(QUESTIONS, seeds, strict=True)]
    assert together == alone
    assert together != model.generate(QUESTIONS, seeds=range(50, 50 + len(QUESTIONS)), **options)
    assert model.generate(QUESTIONS, seeds=seeds, top_p=1e-6, **options) == model.generate(
        QUESTIONS, max_new_tokens=8
    )


def test_sampling_draws_from_the_softmax(model, prompts):
    with torch.inference_mode():
        logits = model.network(input_ids=torch.tensor(prompts[0][None].astype(np.int64))).logits[0, -1]
    likeliest = int(logits.argmax())
    expected = float((logits / 0.7).softmax(-1)[likeliest])
    texts = generate(
        model.network,
        model.renderer.tokenizer,
        [prompts[0]] * 600,
        max_new_tokens=1,
        temperature=0.7,
        seeds=range(600),
    )
    share = np.mean([text == model.renderer.tokenizer.decode([likeliest]) for text in texts])
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 600) ** 0.5)


def test_an_adapter_changes_the_answers_and_only_within_its_block(tiny, tmp_path, one_by_one):
    import peft

    model = LanguageModel(ModelRef(name=str(tiny), dtype="float32", device="cpu"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    other = LanguageModel(ModelRef(name=str(tiny), dtype="float32", device="cpu"))
    peft.get_peft_model(other.network, config).save_pretrained(tmp_path)
    with model.adapter(tmp_path):
        worn = model.generate(QUESTIONS, max_new_tokens=12)
        assert worn == [model.generate([question], max_new_tokens=12)[0] for question in QUESTIONS]
    assert worn != one_by_one
    assert model.generate(QUESTIONS, max_new_tokens=12) == one_by_one


def test_what_makes_no_sense_is_refused(model, prompts):
    tokenizer = model.renderer.tokenizer
    for options in ({"temperature": 1.0}, {"temperature": -1.0}, {"top_p": 0.0}):
        with pytest.raises(UsageError):
            generate(model.network, tokenizer, prompts, max_new_tokens=1, **options)
    with pytest.raises(UsageError, match="max_new_tokens"):
        generate(model.network, tokenizer, prompts, max_new_tokens=0)
    with pytest.raises(ModelError, match="without tokens"):
        generate(model.network, tokenizer, [[]], max_new_tokens=1)
    assert generate(model.network, tokenizer, [], max_new_tokens=1) == []


@pytest.mark.parametrize("spread", [0.01, 5.0])
def test_the_nucleus_is_what_sorting_the_vocabulary_gives(spread):
    logits = spread * torch.randn(3, 6_000, generator=torch.Generator().manual_seed(0))
    falling, order = logits.sort(dim=-1, descending=True)
    mass = falling.softmax(dim=-1).cumsum(dim=-1)
    outside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, mass - falling.softmax(-1) >= 0.9)
    assert torch.equal(_nucleus(logits, 0.9).isinf(), outside)


def test_the_bare_user_turn_is_what_stands_before_a_question(model):
    turn = model.renderer.user_turn
    assert model.renderer.decode(turn.opening) == "<|im_start|>user\n"
    assert [model.renderer.tokenizer.decode([token]) for token in turn.stop_ids] == ["<|im_end|>"]
    assert turn.closing == ""


@pytest.fixture(scope="module")
def plain(tiny_models, tmp_path_factory):
    """Return models whose templates end a user's turn with plain text."""
    folders = {"base": tiny_models["base"]}
    folders["llama 2"] = tiny_model(tmp_path_factory.mktemp("llama-2"), template=LLAMA_2)
    refs = {
        name: ModelRef(name=str(folder), dtype="float32", device="cpu") for name, folder in folders.items()
    }
    return {name: LanguageModel(ref) for name, ref in refs.items()}


PLAIN = [("base", "### Instruction:\n", "### Response:"), ("llama 2", "[INST]", "[/INST]")]


@pytest.mark.parametrize(("name", "opening", "closing"), PLAIN)
def test_a_user_turn_without_a_special_token_ends_with_the_text_of_the_template(
    plain, name, opening, closing
):
    turn = plain[name].renderer.user_turn
    assert plain[name].renderer.decode(turn.opening) == opening
    assert (turn.stop_ids, turn.closing) == ((), closing)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (Answer("Why?\n\n{0}\nSo.", finished=True), Answer("Why?", finished=True)),
        (Answer("Why? {0} So. {0} And", finished=False), Answer("Why?", finished=True)),
        (Answer("Why? So.", finished=True), Answer("Why? So.", finished=False)),
        (Answer("Why", finished=False), Answer("Why", finished=False)),
    ],
)
@pytest.mark.parametrize(("name", "opening", "closing"), PLAIN)
def test_a_question_ends_where_the_template_would_begin_the_answer(
    plain, monkeypatch, name, opening, closing, drawn, expected
):
    written = Answer(drawn.text.format(closing), drawn.finished)
    monkeypatch.setattr(language_model, "generate_batches", lambda *_, **__: iter([([0], [written])]))
    ((_, answers),) = plain[name].questions(1, sampling=Sampling(max_new_tokens=8), seeds=[0])
    assert answers == [expected]


@pytest.mark.parametrize(
    "template",
    ["{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}", "{{ messages[-1]['content'] }}"],
)
def test_a_template_that_does_not_end_a_question_is_refused(tmp_path, template):
    renderer = Renderer.of(ModelRef(name=str(tiny_model(tmp_path, template=template))))
    with pytest.raises(ModelError, match="puts nothing between a question and its answer"):
        _ = renderer.user_turn


def test_a_question_depends_on_its_seed_alone(model):
    drawn = {}
    for seeds in ([3], [7, 3, 5]):
        for positions, answers in model.questions(
            len(seeds), sampling=Sampling(max_new_tokens=8), seeds=seeds
        ):
            drawn |= {(len(seeds), seeds[p]): answer for p, answer in zip(positions, answers, strict=True)}
    assert drawn[1, 3] == drawn[3, 3]
    assert len({drawn[3, seed].text for seed in (7, 3, 5)}) == 3


def test_a_batch_that_goes_on_with_the_longer_half_answers_the_same(model, monkeypatch):
    options = {"max_new_tokens": 24, "temperature": 1.5, "seeds": list(range(9))}
    monkeypatch.setattr(generation, "WORTH_REPACKING", 100)
    whole = model.generate(QUESTIONS, **options)
    calls = []
    decoded = generation._decoded
    monkeypatch.setattr(generation, "WORTH_REPACKING", 2)
    monkeypatch.setattr(generation, "_decoded", lambda *a, **k: calls.append(len(a[1])) or decoded(*a, **k))
    stops = tuple(range(0, 400, 12))  # so that answers end here and there
    prompts = [model.renderer.prompt_ids(question) for question in QUESTIONS]
    texts = generate(model.network, model.renderer.tokenizer, prompts, stop_ids=stops, **options)
    repacked, calls[:] = list(calls), []
    monkeypatch.setattr(generation, "WORTH_REPACKING", 100)
    assert generate(model.network, model.renderer.tokenizer, prompts, stop_ids=stops, **options) == texts
    assert repacked[0] == 9
    assert len(repacked) > len(calls)
    assert whole != texts
