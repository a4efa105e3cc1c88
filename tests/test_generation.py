"""Answers of a model: batches change nothing, stops are kept, sampling is by seed."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from asking import texts_of
from learnable.errors import ModelError, UsageError
from learnable.models import decoding, language_model
from learnable.models.decoding import Draws, nucleus
from learnable.models.generation import Asked, generate_batches
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.settings import Sampling
from learnable.testing import tiny_model, toy_examples
from learnable.types import Answer, Message, ModelRef

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


def generate(
    network, tokenizer, prompts, *, max_new_tokens, temperature=0.0, top_p=1.0, batch_tokens=None, **options
):
    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    asked = Asked(
        prompts=prompts, sampling=sampling, **{"stop_ids": (int(tokenizer.eos_token_id),), **options}
    )
    texts = {
        position: answer.text
        for positions, answers in generate_batches(network, tokenizer, asked, batch_tokens=batch_tokens)
        for position, answer in zip(positions, answers, strict=True)
    }
    return [texts[position] for position in range(len(prompts))]


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
    sampling, options = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=12), {"batch_tokens": 150}
    tokenizer = model.renderer.tokenizer
    asked = Asked(prompts=prompts, sampling=sampling, stop_ids=(int(tokenizer.eos_token_id),))
    every = [positions for positions, _ in generate_batches(model.network, tokenizer, asked, **options)]
    two = replace(asked, only={1, 4})
    some = dict(
        pair
        for positions, texts in generate_batches(model.network, tokenizer, two, **options)
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
    together = texts_of(model, QUESTIONS, seeds=seeds, **options)
    alone = [texts_of(model, [q], seeds=[s], **options)[0] for q, s in zip(QUESTIONS, seeds, strict=True)]
    assert together == alone
    assert together != texts_of(model, QUESTIONS, seeds=range(50, 50 + len(QUESTIONS)), **options)
    assert texts_of(model, QUESTIONS, seeds=seeds, top_p=1e-6, **options) == texts_of(
        model, QUESTIONS, max_new_tokens=8
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
        worn = texts_of(model, QUESTIONS, max_new_tokens=12)
        assert worn == [texts_of(model, [question], max_new_tokens=12)[0] for question in QUESTIONS]
    assert worn != one_by_one
    assert texts_of(model, QUESTIONS, max_new_tokens=12) == one_by_one


def test_states_of_last_tokens_come_to_the_head_in_one_piece(model):
    """A slice would be multiplied by a copy of frozen weights for each row: gigabytes under an adapter."""
    seen = []
    head = model.network.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, states, __: seen.append(states[0].is_contiguous()))
    texts_of(model, QUESTIONS, max_new_tokens=2)
    handle.remove()
    assert seen
    assert all(seen)


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
    probabilities = logits.softmax(dim=-1)
    falling, order = probabilities.sort(dim=-1, descending=True)
    outside = falling.cumsum(dim=-1) - falling >= 0.9
    expected = probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), value=0.0)
    tokens, inside = nucleus(probabilities, 0.9)
    assert torch.equal(torch.zeros_like(probabilities).scatter(-1, tokens, inside), expected)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_a_draw_at_either_end_is_a_token_of_the_nucleus(monkeypatch, uniform):
    """The largest number that is drawn is rounded to 1 where it meets the mass of the nucleus."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([uniform]))
    likely = torch.arange(40, 340, 3)
    scores = torch.full((1, 400), -50.0)
    scores[0, likely] = torch.linspace(0, 1, len(likely))
    left = Draws(1.0, 0.9, [0])(torch.zeros(1, 1), scores)
    (drawn,) = left.isfinite().nonzero()[:, 1].tolist()
    tokens, inside = nucleus(scores.softmax(-1), 0.9)
    allowed = sorted(tokens[inside > 0].tolist())
    assert drawn == (allowed[0] if uniform == 0 else allowed[-1])


def test_nothing_is_drawn_after_the_end():
    draws = Draws(1.0, 0.9, [3])
    before, scores = draws.states, torch.randn(1, 400)
    draws.over = True
    assert draws(torch.zeros(1, 1), scores) is scores
    assert torch.equal(draws.states[0], before[0])


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


SYSTEM = Message(role="system", content="red green blue sky sun moon sea water fire house road river song")


def network_of(kind, **changed):
    """Return an untrained network of the tiny model's vocabulary."""
    sizes = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "state_size": 8,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes | {"pad_token_id": 0, "eos_token_id": 2} | changed)
    return AutoModelForCausalLM.from_config(config).eval()


NETWORKS = {
    "all tokens are seen": ("llama", {}),
    "a window": ("mistral", {"sliding_window": 6}),
    "places are not told": ("bloom", {"n_head": 4, "n_layer": 2}),
    "a state": ("mamba", {}),
}
TWINS = {"max_new_tokens": 12, "stop_ids": range(0, 400, 12), "temperature": 1.5, "seeds": range(11)}


@pytest.fixture(scope="module")
def alike(model):
    """Return prompts that begin alike; of eleven, five are different."""
    asked = QUESTIONS[:5] + QUESTIONS[:2] * 3
    return [model.renderer.prompt_ids((SYSTEM, *question)) for question in asked]


@pytest.fixture
def read(monkeypatch):
    """Return the rows and tokens of what transformers is given."""
    shapes, given = [], decoding._Rows._generated

    def noted(rows, ids, *rest, **rules):
        shapes.append(tuple(ids.shape))
        return given(rows, ids, *rest, **rules)

    monkeypatch.setattr(decoding._Rows, "_generated", noted)
    return shapes


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_shared_and_what_leaves_changes_no_answer(model, alike, monkeypatch, name):
    kind, changed = NETWORKS[name]
    network, tokenizer = network_of(kind, **changed), model.renderer.tokenizer
    alone = [
        generate(network, tokenizer, [prompt], **TWINS | {"seeds": [seed]})[0]
        for prompt, seed in zip(alike, TWINS["seeds"], strict=True)
    ]
    monkeypatch.setattr(decoding, "WORTH_SHARING", 8)
    assert generate(network, tokenizer, alike, **TWINS) == alone
    assert len(set(alone)) > 5


def test_what_prompts_share_is_read_once(model, alike, read):
    generate(model.network, model.renderer.tokenizer, alike, **TWINS)
    longest = max(map(len, alike))
    common, distinct, rest = read[:3]
    assert common[0] == 1
    assert common[1] >= 20  # the system turn
    assert distinct == (5, longest - 1)
    assert rest == (11, longest)


def test_what_prompts_hardly_share_is_read_with_the_rest(model, alike, read, monkeypatch):
    monkeypatch.setattr(decoding, "WORTH_SHARING", 10_000)
    generate(model.network, model.renderer.tokenizer, alike, **TWINS)
    assert read[0] == (11, max(map(len, alike)))


@pytest.mark.parametrize("name", ["a window", "places are not told", "a state"])
def test_no_padding_stands_within_a_prompt_that_could_not_tell(model, alike, read, name):
    kind, changed = NETWORKS[name]
    generate(network_of(kind, **changed), model.renderer.tokenizer, alike, **TWINS)
    assert read[0] == (11, max(map(len, alike)))


def test_rows_that_are_done_leave_the_batch(model, alike, read):
    generate(model.network, model.renderer.tokenizer, alike, **TWINS)
    rows = [count for count, _ in read[2:]]
    assert rows == sorted(rows, reverse=True)
    assert len(rows) > 3


def test_rows_stay_until_half_are_done_where_the_others_must_be_read_again(model, alike, read):
    generate(network_of("mamba"), model.renderer.tokenizer, alike, **TWINS)
    rows = [count for count, _ in read]
    assert len(rows) > 1
    assert all(after <= before // 2 for before, after in pairwise(rows))


def test_a_batch_that_does_not_fit_goes_on_in_halves(model, prompts, monkeypatch):
    options = {
        "max_new_tokens": 12,
        "temperature": 1.5,
        "seeds": range(len(prompts)),
        "stop_ids": range(0, 400, 12),
    }
    tokenizer = model.renderer.tokenizer
    expected = generate(model.network, tokenizer, prompts, **options)
    decoded, failed = decoding._Rows.decode, []

    def tight(rows, *, most, draws):
        found = decoded(rows, most=most, draws=draws)
        if len(rows._ids) > 2 and most < 12:  # when some are done
            failed.append(len(rows._ids))
            raise torch.cuda.OutOfMemoryError
        return found

    monkeypatch.setattr(decoding._Rows, "decode", tight)
    assert generate(model.network, tokenizer, prompts, **options) == expected
    assert failed
    monkeypatch.setattr(
        decoding._Rows, "decode", lambda *_, **__: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError)
    )
    with pytest.raises(ModelError, match="does not fit the GPU"):
        generate(model.network, tokenizer, prompts[:2], max_new_tokens=2)
