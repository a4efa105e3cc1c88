"""vLLM, whose package is not here: what it is asked, and what is made of what it says; against one that checks its calls."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from learnable.diversifiers.drawing import Drawing
from learnable.diversifiers.self_sample import SelfSample
from learnable.errors import ModelError, UsageError
from learnable.models import vllm_generator
from learnable.models.language_model import LanguageModel
from learnable.models.vllm_generator import VllmGenerator, vllm_key
from learnable.runs.store import Store
from learnable.settings import Sampling
from learnable.testing import tiny_model, toy_examples
from learnable.types import Answer, Message, ModelRef

QUESTIONS = [example.messages[:1] for example in toy_examples(5)]
SAMPLING = Sampling(temperature=0.5, top_p=0.9, max_new_tokens=7)


class Vllm(SimpleNamespace):
    """Stands for the module ``vllm``: takes what vLLM 0.33 takes by these names, and nothing else.

    ``write(prompt, params) -> (token ids, finish_reason)`` is what it answers.
    """

    def __init__(self, write):
        super().__init__(write=write, loaded=[], calls=[])
        outer = self

        class LLM:
            def __init__(
                self,
                model: str,
                *,
                dtype: str = "auto",
                seed: int = 0,
                trust_remote_code: bool = False,
                max_model_len: int | None = None,
                generation_config: str = "auto",
            ):
                given = (model, dtype, seed, trust_remote_code, max_model_len, generation_config)
                outer.loaded.append(given)
                self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=100))

            def generate(self, prompts: list[Any], sampling_params: list[Any], *, use_tqdm: bool = True):
                assert use_tqdm is False
                assert [type(params) for params in sampling_params] == [SamplingParams] * len(prompts)
                outer.calls.append((prompts, sampling_params))
                return [
                    output_of(*outer.write(prompt["prompt_token_ids"], params))
                    for prompt, params in zip(prompts, sampling_params, strict=True)
                ]

        self.LLM, self.SamplingParams, self.TokensPrompt = LLM, SamplingParams, tokens_prompt


class SamplingParams:
    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int | None = 16,
        seed: int | None = None,
        stop_token_ids: list[int] | None = None,
        detokenize: bool = True,
    ):
        if temperature > 2:
            raise ValueError(f"temperature must be in [0, 2], got {temperature}.")
        assert all(type(token) is int for token in stop_token_ids)
        self.sampling = (temperature, top_p, max_tokens)
        self.seed, self.stops, self.detokenize = seed, stop_token_ids, detokenize


def tokens_prompt(*, prompt_token_ids: list[int]):
    assert type(prompt_token_ids) is list
    assert all(type(token) is int for token in prompt_token_ids)
    return {"prompt_token_ids": prompt_token_ids}


def output_of(token_ids, finish_reason):
    return SimpleNamespace(
        outputs=[SimpleNamespace(token_ids=tuple(token_ids), finish_reason=finish_reason, text="")]
    )


@pytest.fixture
def vllm(monkeypatch):
    """Put a module ``vllm`` in place that repeats the last three tokens of a prompt."""
    module = Vllm(lambda prompt, params: ([*prompt[-3:], params.stops[0]], "stop"))
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in vllm_generator.QUIET:
        monkeypatch.setenv(name, "before")
    return module


@pytest.fixture
def ref(tiny):
    return ModelRef(name=str(tiny), dtype="float32", device="cpu")


def drawn(generator, **options):
    batches = generator.answers(QUESTIONS, sampling=SAMPLING, seeds=range(50, 55), **options)
    return {place: answer for batch in batches for place, answer in zip(*batch, strict=True)}


def test_how_the_model_is_loaded(vllm, ref):
    VllmGenerator(ref)
    assert vllm.loaded == [(ref.name, "float32", 0, False, -1, "vllm")]


def test_vllm_is_told_to_be_quiet_before_it_is_imported(vllm, ref, monkeypatch):
    for name in vllm_generator.QUIET:
        monkeypatch.delenv(name)
    seen = {}
    monkeypatch.setattr(vllm_generator, "needed", lambda *_, **__: seen.update(os.environ) or vllm)
    VllmGenerator(ref)
    assert vllm_generator.QUIET.items() <= seen.items()


def test_identity_is_the_model_and_that_vllm_runs_it(vllm, ref, tmp_path):
    generator, loaded = VllmGenerator(ref), LanguageModel(ref)
    other = ModelRef(name=str(tiny_model(tmp_path, seed=1)), dtype="float32", device="cpu")
    assert generator.key == vllm_key(ref)
    assert len({generator.key, loaded.key, vllm_key(other)}) == 3
    assert generator.renderer.key == loaded.renderer.key


def test_what_vllm_is_asked(vllm, ref):
    generator = VllmGenerator(ref)
    drawn(generator)
    ((prompts, params),) = vllm.calls
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [
        generator.renderer.prompt_ids(question).tolist() for question in QUESTIONS
    ]
    assert [one.sampling for one in params] == [(0.5, 0.9, 7)] * 5
    assert [one.seed for one in params] == [50, 51, 52, 53, 54]
    assert [(one.stops, one.detokenize) for one in params] == [([2], False)] * 5
    assert generator.renderer.stop_ids == (2,)


def test_the_texts_end_where_the_stop_token_is(vllm, ref):
    written = {0: ([60, 61, 2], "stop"), 1: ([60, 61], "length"), 2: ([60, 2], "length"), 3: ([2], "stop")}
    vllm.write = lambda _, params: written.get(params.seed - 50, ([60], "length"))
    generator = VllmGenerator(ref)
    one, two = (generator.renderer.tokenizer.decode(tokens) for tokens in ([60], [60, 61]))
    assert drawn(generator) == {
        0: Answer(two, finished=True),
        1: Answer(two, finished=False),
        2: Answer(one, finished=True),
        3: Answer("", finished=True),
        4: Answer(one, finished=False),
    }


def test_answers_come_in_parts_and_those_outside_only_are_not_asked_for(vllm, ref, monkeypatch):
    monkeypatch.setattr(vllm_generator, "AT_ONCE", 2)
    batches = list(VllmGenerator(ref).answers(QUESTIONS, sampling=SAMPLING, seeds=range(5), only={0, 2, 3}))
    assert [positions for positions, _ in batches] == [[0, 2], [3]]
    assert [[params.seed for params in call[1]] for call in vllm.calls] == [[0, 2], [3]]


def test_a_killed_run_keeps_the_parts_that_came(vllm, ref, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_generator, "AT_ONCE", 2)
    repeat = vllm.write

    def breaks(prompt, params):
        if params.seed == 3:
            raise KeyboardInterrupt
        return repeat(prompt, params)

    vllm.write = breaks
    draw = Drawing(generator=VllmGenerator(ref), sampling=SAMPLING, store=Store(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        draw.answers(QUESTIONS, seeds=range(5), label="answers")
    vllm.write, vllm.calls = repeat, []
    assert all(answer.finished for answer in draw.answers(QUESTIONS, seeds=range(5), label="answers"))
    assert [params.seed for call in vllm.calls for params in call[1]] == [2, 3, 4]


def test_the_model_writes_questions_from_its_open_user_turn(vllm, ref):
    generator = VllmGenerator(ref)
    batches = list(generator.questions(2, sampling=SAMPLING, seeds=[7, 8]))
    ((prompts, params),) = vllm.calls
    opening = generator.renderer.user_turn.opening.tolist()
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [opening] * 2
    assert [one.seed for one in params] == [7, 8]
    text = generator.renderer.tokenizer.decode(opening[-3:], skip_special_tokens=True)
    assert batches == [([0, 1], [Answer(text, finished=True)] * 2)]


def test_a_question_ends_with_the_text_of_the_template(vllm, tiny_models):
    base = ModelRef(name=str(tiny_models["base"]), dtype="float32", device="cpu")
    generator = VllmGenerator(base)
    after = generator.renderer.tokenizer("Why?\n\n### Response:\nSo.")["input_ids"]
    vllm.write = lambda _, params: ((after if params.seed else after[:1]), "length")
    ((_, answers),) = generator.questions(2, sampling=SAMPLING, seeds=[0, 1])
    assert [answer.finished for answer in answers] == [False, True]
    assert answers[1].text == "Why?"


def test_self_sample_runs_on_vllm(vllm, ref, tmp_path):
    generator = VllmGenerator(ref)
    words = generator.renderer.tokenizer("red green blue")["input_ids"]
    vllm.write = lambda prompt, params: ([*words, len(prompt) % 300 + 50, params.stops[0]], "stop")
    draw = Drawing(generator=generator, sampling=SAMPLING, store=Store(tmp_path))
    made = SelfSample(tries=1)([], n=1, draw=draw, seed=0)
    assert [turn.role for turn in made.kept[0].messages] == ["user", "assistant"]
    assert draw.tally.tokens > 0


def test_what_does_not_fit_the_engine_is_refused(vllm, ref, tmp_path):
    draw = Drawing(generator=VllmGenerator(ref), sampling=SAMPLING, store=Store(tmp_path))
    long = (Message(role="user", content="red " * 200),)
    assert "do not fit the model's 100" in draw.refusal(long)
    assert draw.refusal(QUESTIONS[0]) is None


def test_what_vllm_gives_up_is_left_out(vllm, ref):
    vllm.write = lambda prompt, params: (prompt[-3:], "abort" if params.seed == 51 else "length")
    assert sorted(drawn(VllmGenerator(ref))) == [0, 2, 3, 4]


def test_what_vllm_raises_is_one_line(vllm, ref):
    class EngineDeadError(Exception):
        pass

    def dies(*_):
        raise EngineDeadError("EngineCore encountered an issue.\nSee above.")

    vllm.write = dies
    with pytest.raises(ModelError, match=r"EngineDeadError: EngineCore encountered an issue\.") as error:
        drawn(VllmGenerator(ref))
    assert "See above" not in error.value.message
    assert "vllm serve" in error.value.hint


def test_a_model_that_vllm_cannot_run(vllm, ref, monkeypatch):
    monkeypatch.setattr(vllm, "LLM", lambda **_: (_ for _ in ()).throw(RuntimeError("")))
    with pytest.raises(ModelError, match=f"vLLM cannot run {ref.name}: RuntimeError"):
        VllmGenerator(ref)


def test_without_vllm(ref, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match="--generator vllm needs the package vllm") as error:
        VllmGenerator(ref)
    assert error.value.hint == 'pip install "learnable[vllm]"'
