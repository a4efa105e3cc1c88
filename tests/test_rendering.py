"""The response mask, against the tokens themselves."""

import re
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from learnable.errors import ModelError
from learnable.models.rendering import Renderer
from learnable.models.templates import DEFAULT_TEMPLATE
from learnable.runs.identity import example_id
from learnable.testing import CHATML, toy_examples
from learnable.types import Example, Message, ModelRef


def conversation(*contents, system=None):
    turns = [Message(role="system", content=system)] if system else []
    turns += [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(contents)]
    return Example(id=example_id(turns), messages=tuple(turns), source="test")


def scored_text(renderer, example, *, max_length=10_000):
    (rendered,) = renderer.render([example], max_length=max_length)
    runs = np.split(np.arange(len(rendered.mask)), np.flatnonzero(np.diff(rendered.mask.astype(int))) + 1)
    return [renderer.decode(rendered.ids[run]) for run in runs if rendered.mask[run[0]]]


@pytest.fixture(scope="module")
def renderers(tiny_models):
    return {name: Renderer.of(ModelRef(name=str(folder))) for name, folder in tiny_models.items()}


@pytest.mark.parametrize("kind", ["chatml", "generation", "base"])
def test_answers_and_their_end_of_turn_count_in_every_turn(renderers, kind):
    example = conversation(
        "what is red?", "the sun", "and the sea?", "blue, like\nthe sky", system="be short"
    )
    assert scored_text(renderers[kind], example) == ["the sun<|im_end|>", "blue, like\nthe sky<|im_end|>"]


def test_the_mask_equals_the_generation_marks_of_the_template(renderers, tiny_models):
    tokenizer = AutoTokenizer.from_pretrained(tiny_models["generation"])
    for example in toy_examples(8, turns=3):
        turns = [{"role": m.role, "content": m.content} for m in example.messages]
        marked = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        (rendered,) = renderers["generation"].render([example], max_length=10_000)
        assert rendered.ids.tolist() == marked["input_ids"]
        assert rendered.mask.tolist() == [bool(value) for value in marked["assistant_masks"]]


@pytest.mark.parametrize("kind", ["chatml", "generation", "base"])
def test_rendering_many_is_rendering_each(renderers, kind):
    examples = toy_examples(7, turns=2)
    together = renderers[kind].render(examples, max_length=64)
    for example, rendered in zip(examples, together, strict=True):
        (alone,) = renderers[kind].render([example], max_length=64)
        assert rendered.ids.tolist() == alone.ids.tolist()
        assert rendered.mask.tolist() == alone.mask.tolist()


def test_an_answer_that_is_a_word_of_the_template_is_found(renderers):
    example = conversation("who speaks?", "assistant", "who asks?", "user")
    assert scored_text(renderers["chatml"], example) == ["assistant<|im_end|>", "user<|im_end|>"]


def test_the_same_answer_twice_counts_twice(renderers):
    example = conversation("a?", "yes", "b?", "yes")
    assert scored_text(renderers["chatml"], example) == ["yes<|im_end|>", "yes<|im_end|>"]


def test_an_answer_that_repeats_the_question_counts_only_as_answer(renderers):
    example = conversation("the sky", "the sky")
    assert scored_text(renderers["chatml"], example) == ["the sky<|im_end|>"]


@pytest.mark.parametrize("answer", ["日本語 ✓", "🦆🦆", "naïve café", "  two spaces", "trailing \n"])
def test_unicode_and_white_space_of_an_answer_count_whole(renderers, answer):
    assert scored_text(renderers["chatml"], conversation("what?", answer)) == [f"{answer}<|im_end|>"]


def test_a_template_that_trims_still_gives_the_exact_answer(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'] | trim"
    )
    renderer = Renderer(tokenizer, name="trimming")
    assert scored_text(renderer, conversation("what?", "  the sun \n", "and?", "the sea")) == [
        "the sun<|im_end|>",
        "the sea<|im_end|>",
    ]


def test_tokens_beyond_the_limit_are_cut_off_and_said(renderers):
    example = conversation("what?", "one two three four five six seven eight nine ten")
    (whole,) = renderers["chatml"].render([example], max_length=10_000)
    (cut,) = renderers["chatml"].render([example], max_length=len(whole.ids) - 3)
    assert (whole.truncated, cut.truncated) == (False, True)
    assert cut.ids.tolist() == whole.ids[:-3].tolist()
    assert cut.mask.tolist() == whole.mask[:-3].tolist()


def test_a_prompt_that_fills_the_limit_leaves_no_response_token(renderers):
    (rendered,) = renderers["chatml"].render([conversation("one two three four", "five")], max_length=6)
    assert not rendered.mask.any()


def test_a_bos_in_the_template_is_not_doubled(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    (rendered,) = Renderer(tokenizer, name="bos").render([conversation("a?", "b")], max_length=99)
    assert (rendered.ids == tokenizer.bos_token_id).sum() == 1


def test_the_default_template_is_that_of_alpaca(renderers, tiny_models):
    assert AutoTokenizer.from_pretrained(tiny_models["base"]).chat_template is None
    assert renderers["base"].uses_default_template
    text = renderers["base"].text(conversation("q", "a", system="s").messages)
    assert text == "s\n\n### Instruction:\nq\n\n### Response:\na<|im_end|>"
    assert "add_bos" in DEFAULT_TEMPLATE


def test_a_template_that_prints_the_date_prints_the_same_one_every_day(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} " + tokenizer.chat_template
    text = Renderer(tokenizer, name="dated").text(conversation("a?", "b").messages)
    assert text.startswith("26 Jul 2024 <|im_start|>")


@pytest.mark.parametrize("change", ["template", "marks"])
def test_what_changes_the_tokens_changes_the_key(tiny, change):
    one, other = AutoTokenizer.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    if change == "template":
        other.chat_template = other.chat_template + " "
    else:
        other.eos_token = "<|endoftext|>"
    assert Renderer(one, name="a").key == Renderer(AutoTokenizer.from_pretrained(tiny), name="b").key
    assert Renderer(one, name="a").key != Renderer(other, name="a").key


def test_a_template_that_refuses_a_turn_names_the_example(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    example = conversation("a?", "b", system="s")
    with pytest.raises(ModelError, match=f"example {example.id[:8]} of test .*System role not supported"):
        Renderer(tokenizer, name="gemma").render([example], max_length=99)


def test_a_template_that_leaves_out_an_answer_is_refused(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ModelError, match="leaves out the answer of turn 2"):
        Renderer(tokenizer, name="users only").render([conversation("a?", "b")], max_length=99)


MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
NO_GENERATION_PROMPT = "{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|assistant|>' }}\n{{ m.content }}<|end|>\n{% endfor %}"
ENDS_WHAT_IS_NOT_ANSWERED = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if messages[-1].role == 'user' %}{{ eos_token }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "header"),
    [
        (CHATML, "<|im_start|>assistant\n"),
        (None, "### Response:\n"),
        (MISTRAL, "<|endoftext|>[/INST]"),
        (NO_GENERATION_PROMPT, "<|assistant|>\n"),
        (ENDS_WHAT_IS_NOT_ANSWERED, "<|assistant|>\n"),
        ("{{ '<|endoftext|>' }}" + CHATML, "<|endoftext|><|im_start|>assistant\n"),
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "<|im_end|>"),
        ("{{ raise_exception('no') if messages|length < 2 }}" + CHATML, "<|im_start|>assistant\n"),
    ],
    ids=["chatml", "none", "inst", "marks", "ends", "bos", "nothing", "refuses a question"],
)
def test_the_header_of_an_answer_is_what_the_template_writes_after_the_question(tiny, template, header):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template, tokenizer.bos_token = template, "<|endoftext|>"
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    renderer = Renderer(tokenizer, name="mine")
    assert renderer.decode(renderer.answer_header.ids) == header


def test_a_bos_that_is_the_header_stands_there_once(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.bos_token = "<|im_start|>"
    renderer = Renderer(tokenizer, name="smol")
    assert renderer.decode(renderer.answer_header.ids) == "<|im_start|>assistant\n"


def stock_templates():
    folder = files("trl").joinpath("chat_templates")
    return sorted(
        file.name
        for file in folder.iterdir()
        if file.name.endswith(".jinja") and "_training" not in file.name
    )


# These take a list of parts as content, with images.
_NEED_MORE = {"idefics3", "smolvlm", "llava_next"}


@pytest.mark.parametrize(
    "name", [name for name in stock_templates() if name.removesuffix(".jinja") not in _NEED_MORE]
)
def test_every_stock_template_of_trl_scores_the_answers_and_nothing_else(tiny, name):
    template = files("trl").joinpath("chat_templates", name).read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template, tokenizer.bos_token = template, "<|endoftext|>"
    special = re.findall(
        r"<\|\w+\|>|<\w+_of_turn>|<｜[^｜]+｜>|</?s>|<turn\|>|<\|turn>|<\|\w+>|<\w+\|>", template
    )
    tokenizer.add_special_tokens({"extra_special_tokens": sorted(set(special))})
    pieces = scored_text(
        Renderer(tokenizer, name=name), conversation("what is up?", "the sky is blue", "and?", "grass")
    )
    assert [re.sub(r"<[^<>]+>$", "", piece).strip() for piece in pieces] == ["the sky is blue", "grass"]
    assert re.search(r"blue\s*<[^<>]+>$", pieces[0]), "the end of turn counts"


@pytest.fixture
def longer(tiny, tmp_path):
    """Return a model whose tokenizer has two tokens more than the embedding has rows."""
    shutil.copytree(tiny, tmp_path / "longer")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<sep>"]})
    tokenizer.save_pretrained(tmp_path / "longer")
    return ModelRef(name=str(tmp_path / "longer"), dtype="float32", device="cpu")


def test_tokens_without_an_embedding_are_no_harm_where_no_row_has_them(longer, tiny):
    row = conversation("a?", "b")
    expected = Renderer.of(ModelRef(name=str(tiny))).render([row], max_length=99)[0]
    np.testing.assert_array_equal(Renderer.of(longer).render([row], max_length=99)[0].ids, expected.ids)


def test_a_token_without_an_embedding_is_named_with_its_row(longer):
    renderer, row = Renderer.of(longer), conversation("a <sep> b?", "c")
    with pytest.raises(ModelError, match=rf"{row.id[:8]}.*'<sep>'.*embeddings for \d+ tokens") as caught:
        renderer.render([row], max_length=99)
    assert "resize_token_embeddings" in caught.value.hint
    with pytest.raises(ModelError, match="prompt has the token '<sep>'"):
        renderer.prompt_ids(row.messages[:1])
    refused, kept = renderer.render([row, conversation("a?", "b")], max_length=99, skip_refused=True)
    assert "<sep>" in refused.refused
    assert len(refused.ids) == 0 < len(kept.ids)


def test_a_template_of_tokens_without_an_embedding_is_refused(longer):
    template = Path(longer.name) / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<sep>"))
    with pytest.raises(ModelError, match="'<sep>'"):
        Renderer.of(longer).render([conversation("a?", "b")], max_length=99)
