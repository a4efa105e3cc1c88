"""Which chat template is used, and that it is tried before it is trusted."""

import shutil
import time

import pytest
from transformers import AutoTokenizer

from learnable.errors import ModelError
from learnable.models import template_process, templates
from learnable.models.rendering import Renderer
from learnable.models.source import identify
from learnable.testing import CHATML, toy_examples
from learnable.types import Message, ModelRef

TURNS = (Message(role="user", content="a?"), Message(role="assistant", content="b"))
LOUD = CHATML.replace("message['content']", "message['content'] | upper")


def renderer_of(folder, template):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return Renderer(tokenizer, name="tested")


# a template that does not end


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 10**10 }}", "fills"),
        (
            "{% for i in range(900) %}{{ messages[0].content * 9 }}{{ 'abcdefgh' * 900 }}{% endfor %}",
            "characters",
        ),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "does not end"),
    ],
)
def test_a_template_that_explodes_or_does_not_end_is_refused(tiny, monkeypatch, template, said):
    monkeypatch.setattr(templates, "TRIAL_CPU_S", 1)
    started = time.monotonic()
    with pytest.raises(ModelError, match=said) as caught:
        renderer_of(tiny, template)
    assert "--chat-template" in caught.value.hint
    assert time.monotonic() - started < templates.TRIAL_WAIT_S


def test_a_template_that_calls_itself_for_ever_refuses_rows(tiny):
    template = "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"
    with pytest.raises(ModelError, match="recursion"):
        renderer_of(tiny, template).render(toy_examples(1), max_length=99)


def test_a_template_that_explodes_on_some_rows_only_is_refused_there(tiny):
    template = "{% if messages[0].content == 'boom' %}{{ 'ab' * 10**6 }}{% endif %}" + CHATML
    renderer = renderer_of(tiny, template)
    assert renderer.text(TURNS)
    with pytest.raises(ModelError, match="2,000,0"):
        renderer.text((Message(role="user", content="boom"), TURNS[1]))


def test_a_long_conversation_is_no_explosion(tiny):
    long = (Message(role="user", content="word " * 200_000), TURNS[1])
    assert len(renderer_of(tiny, CHATML).text(long)) > 1_000_000


def test_the_process_has_what_transformers_gives_to_templates():
    made = template_process.environment()
    template = made.from_string(
        "{% generation %}{{ [1, '<é>'] | tojson }}{% endgeneration %}{{ strftime_now('%Y') }}"
        "{% for i in [1, 2] %}{% break %}{% endfor %}{% set n = namespace(a=1) %}{{ n.a }}{{ dict(b=2).b }}"
    )
    assert template.render() == '[1, "<é>"]26 Jul 202412'
    with pytest.raises(ValueError, match="no"):
        made.from_string("{{ raise_exception('no') }}").render()


# several templates


def test_the_default_of_several_templates_is_used_also_where_it_prints_the_date(tiny):
    dated = "{{ strftime_now('%d %b %Y') }} " + CHATML
    text = renderer_of(tiny, {"default": dated, "loud": LOUD}).text(TURNS)
    assert text.startswith("26 Jul 2024 <|im_start|>user\na?")


def test_rows_with_tools_take_the_template_for_tools(tiny):
    with_tools = "{{ tools | tojson }}" + CHATML
    renderer = renderer_of(tiny, {"default": CHATML, "tool_use": with_tools})
    tools = '[{"type": "function", "function": {"name": "weather"}}]'
    assert "weather" not in renderer.text(TURNS)
    assert "weather" in renderer.text(TURNS, tools=tools)


def test_several_templates_without_a_default_are_named_with_how_to_choose(tiny):
    with pytest.raises(ModelError) as caught:
        renderer_of(tiny, {"rag": CHATML, "chat": LOUD})
    assert "chat, rag" in caught.value.message
    assert "--chat-template chat" in caught.value.hint


@pytest.fixture
def several(tiny, tmp_path):
    """Return the folder of a model with two templates, none of them the default."""
    folder = tmp_path / "several"
    shutil.copytree(tiny, folder)
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"chat": CHATML, "loud": LOUD}
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("chosen", "text"), [("chat", "\nb<|im_end|>"), ("loud", "\nB<|im_end|>")])
def test_a_template_is_chosen_by_its_name(several, chosen, text):
    renderer = Renderer.of(ModelRef(name=str(several), chat_template=chosen))
    assert text in renderer.text(TURNS)


def test_a_template_is_chosen_from_a_file_and_changes_the_identity(tiny, tmp_path):
    (tmp_path / "loud.jinja").write_text(LOUD)
    own, chosen = (
        ModelRef(name=str(tiny), dtype="float32", chat_template=path)
        for path in (None, str(tmp_path / "loud.jinja"))
    )
    assert "\nB<|im_end|>" in Renderer.of(chosen).text(TURNS)
    assert len({Renderer.of(own).key, Renderer.of(chosen).key}) == 2
    keys = {identify(own), identify(chosen)}
    (tmp_path / "loud.jinja").write_text(LOUD + " ")
    assert len(keys | {identify(chosen)}) == 3


def test_the_choice_holds_for_a_copy_of_the_tokenizer(several, tmp_path):
    from learnable.models.loading import load_tokenizer

    shutil.copytree(several, tmp_path / "trained")
    ref = ModelRef(name=str(several), chat_template="loud")
    load_tokenizer(ref).save_pretrained(tmp_path / "trained")
    trained = ModelRef(name=str(tmp_path / "trained"), chat_template="loud")
    assert Renderer.of(trained).text(TURNS) == Renderer.of(ref).text(TURNS)


def test_a_template_that_is_not_there_is_an_error_that_names_those_that_are(several):
    with pytest.raises(ModelError, match="no chat template 'nope'") as caught:
        Renderer.of(ModelRef(name=str(several), chat_template="nope"))
    assert "chat, loud" in caught.value.hint
