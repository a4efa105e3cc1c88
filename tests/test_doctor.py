"""The doctor: healthy models are healthy, and every check fails on a model that is broken in its way."""

import json
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import count

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from learnable.commands.doctor import Diagnosis, _chosen, doctor
from learnable.diagnosis import batch_budget, checks, losses
from learnable.diagnosis.batch_budget import budget_check
from learnable.diagnosis.losses import adapter_check, dtype_check, longest_shared_prefix, loss_checks
from learnable.diagnosis.templates import template_checks
from learnable.errors import ModelError, UsageError
from learnable.models.conversations import CONVERSATIONS
from learnable.models.dtype import plain_nll
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.runs.identity import example_id
from learnable.settings import Loading, Reading
from learnable.testing import CHATML, CHATML_GENERATION, toy_examples, write_messages
from learnable.types import Example, Message, ModelRef, Rendered

FULL = Loading(dtype="float32", device="cpu")


def by_name(checks):
    return {check.name: check for check in checks}


def wrong(checks):
    return [check.name for check in checks if check.verdict == "wrong"]


@pytest.fixture(autouse=True)
def few_batches(monkeypatch):
    """Time the two smallest batches only, once."""
    monkeypatch.setattr(batch_budget, "SHARES", (0.25, 0.5))
    monkeypatch.setattr(batch_budget, "ROUNDS", 1)


@pytest.fixture(scope="module")
def ref(tiny):
    return ModelRef(name=str(tiny), **asdict(FULL))


@pytest.fixture
def model(ref):
    return LanguageModel(ref)


@pytest.fixture(scope="module")
def rendered(ref):
    return Renderer.of(ref).render(CONVERSATIONS, max_length=256)


# the whole command


@pytest.mark.parametrize("kind", ["chatml", "generation", "base"])
def test_a_healthy_model_is_healthy(tiny_models, kind):
    found = doctor(model=str(tiny_models[kind]), loading=FULL)
    assert found.healthy, list(found.lines())
    assert found.rows == len(CONVERSATIONS)
    expected = {"threads", "template", "BOS", "end of turn", "prompt", "mask", "batches", "batch size", "order",
                "shared prefix", "plain loop", "padding side", "batch budget", "reasoning and tools"}  # fmt: skip
    assert set(by_name(found.checks)) == expected | ({"generation marks"} if kind == "generation" else set())


def test_each_check_prints_its_figure_and_its_bound_on_one_line(tiny):
    lines = list(doctor(model=str(tiny), loading=FULL).lines())
    assert [line for line in lines if line.startswith("dtype: ")] == ["dtype: float32, asked for"]
    (line,) = (line for line in lines if "batch size" in line)
    assert line.startswith("ok: batch size: all 6 rows together against one by one: at most ")
    assert line.endswith("% of the 0.0001 for float32")


def test_what_is_wrong_is_said_with_what_to_do():
    found = (
        checks.CheckResult(name="BOS", verdict="wrong", found="it is there twice", remedy="take one away"),
        checks.CheckResult(name="mask", verdict="ok", found="fine"),
    )
    diagnosis = Diagnosis(model="m", machine={"device": "cpu"}, rows=6, checks=found)
    assert list(diagnosis.lines()) == [
        "device: cpu",
        "wrong: BOS: it is there twice",
        "    hint: take one away",
        "ok: mask: fine",
        "m: 1 of 2 checks are wrong",
    ]
    assert not diagnosis.healthy
    assert json.loads(json.dumps(asdict(diagnosis)))["checks"][0]["verdict"] == "wrong"


def test_bfloat16_is_compared_with_float32(tiny):
    checks = by_name(doctor(model=str(tiny), loading=replace(FULL, dtype="bfloat16")).checks)
    assert checks["dtype"].verdict == "ok"
    assert (checks["dtype"].bound_nats, checks["batch size"].bound_nats) == (0.15, 0.3)
    assert 1e-4 < checks["dtype"].difference_nats < 0.15


def test_ones_own_rows_are_taken_from_the_shortest_to_the_longest(tmp_path):
    examples = toy_examples(40, turns=2)
    chosen = _chosen([str(write_messages(examples, tmp_path / "rows.jsonl"))], Reading(), 5)
    sizes = sorted(sum(len(m.content) for m in example.messages) for example in examples)
    picked = [sum(len(m.content) for m in example.messages) for example in chosen]
    assert len(picked) == 5
    assert picked == sorted(picked)
    assert (picked[0], picked[-1]) == (sizes[0], sizes[-1])


def test_options_of_rows_need_rows():
    with pytest.raises(UsageError, match="no effect on the built-in conversations"):
        _chosen(None, Reading(), 4)
    with pytest.raises(UsageError, match="at least 2"):
        _chosen(["rows.jsonl"], Reading(), 1)


def test_without_two_rows_that_have_a_response_no_loss_is_compared(tiny, tmp_path):
    rows = write_messages(toy_examples(1), tmp_path / "rows.jsonl")
    found = doctor([str(rows)], model=str(tiny), loading=FULL)
    assert wrong(found.checks) == ["losses"]


def test_losses_that_are_not_finite_are_wrong_and_end_the_checks(tiny, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(tiny)
    broken = shutil.copytree(tiny, tmp_path / "broken")
    with torch.no_grad():
        network.model.norm.weight.fill_(float("nan"))
    network.save_pretrained(broken)
    found = doctor(model=str(broken), loading=FULL)
    assert wrong(found.checks) == ["losses"]
    assert "not finite" in found.checks[-1].found


# template and mask


def checked(tiny, template, examples=CONVERSATIONS, *, bos=None):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = template
    if bos:
        tokenizer.bos_token = bos
    return by_name(template_checks(Renderer(tokenizer, name="tested"), examples))


def conversation(*contents):
    turns = [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(contents)]
    return Example(id=example_id(turns), messages=tuple(turns), source="test")


@pytest.mark.parametrize(("times", "verdict"), [(1, "ok"), (2, "wrong")])
def test_a_bos_that_stands_twice_is_wrong(tiny, times, verdict):
    check = checked(tiny, "{{ bos_token }}" * times + CHATML, bos="<|endoftext|>")["BOS"]
    assert check.verdict == verdict
    assert (check.found == "6 of 6 conversations begin with <|endoftext|> twice") == (times == 2)


ANSWER = "message['content']"
ONLY_ANSWERS = "({} if message['role'] == 'assistant' else message['content'])"


@pytest.mark.parametrize(
    ("template", "check", "verdict", "said"),
    [
        pytest.param(
            CHATML.replace(ANSWER, ONLY_ANSWERS.format("message['content'][:12]")),
            "mask", "wrong", "the tokens that count say 'Thecapital'", id="cuts answers",
        ),
        pytest.param(
            CHATML.replace(ANSWER, "('' if message['role'] == 'assistant' else message['content'])"),
            "template", "wrong", "leaves out the answer of turn 2", id="loses answers",
        ),
        pytest.param(
            CHATML.replace(ANSWER, "('' if message['role'] == 'user' else message['content'])"),
            "prompt", "wrong", "the chat template loses text of turn 1 (user)", id="loses questions",
        ),
        pytest.param(
            CHATML.replace("'<|im_end|>\n'", "('\n' if message['role'] == 'assistant' else '<|im_end|>\n')"),
            "end of turn", "wrong", "3 of 9 answers are not closed by <|im_end|>", id="leaves answers open",
        ),
        pytest.param(
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + CHATML,
            "template", "warning", "refuses 2 of 6 conversations", id="refuses system turns",
        ),
        pytest.param(
            CHATML_GENERATION.replace("{% generation %}", "").replace("{% endgeneration %}", "")
            .replace("{{ message['content'] + '<|im_end|>' }}{% endif %}",
                     "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% endif %}"),
            "generation marks", "wrong", "the chat template marks", id="marks questions",
        ),
        pytest.param(
            CHATML_GENERATION.replace(" + '<|im_end|>' }}{% endgeneration %}", " }}{% endgeneration %}{{ '<|im_end|>' }}"),
            "generation marks", "ok", "the ends of turns, which it does not mark", id="does not mark ends",
        ),
    ],
)  # fmt: skip
def test_a_broken_template_is_told_by_what_it_does(tiny, template, check, verdict, said):
    found = checked(tiny, template)[check]
    assert (found.verdict, said in found.found) == (verdict, True), found


@pytest.mark.parametrize(("answer", "verdict"), [("the sun", "ok"), ("  the sun", "warning")])
def test_a_template_that_trims_answers_is_a_warning_where_that_changes_them(tiny, answer, verdict):
    trims = CHATML.replace(ANSWER, "message['content'] | trim")
    assert checked(tiny, trims, [conversation("what?", answer)])["mask"].verdict == verdict


def test_a_bos_that_the_tokenizer_adds_and_the_template_does_not_is_a_warning(tiny):
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    found = by_name(template_checks(Renderer(tokenizer, name="tested"), CONVERSATIONS))["BOS"]
    assert (found.verdict, "the chat template does not" in found.found) == ("warning", True)


def test_a_tokenizer_that_cannot_write_the_prompt_is_wrong(tiny):
    from tokenizers import normalizers

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    found = by_name(template_checks(Renderer(tokenizer, name="tested"), CONVERSATIONS))["prompt"]
    assert (found.verdict, "the tokenizer changes" in found.found) == ("wrong", True)


# losses


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_that_sees_what_comes_later_is_found_whatever_the_cache_says(ref, rendered, dtype):
    model = LanguageModel(replace(ref, dtype=dtype))
    for layer in model.network.model.layers:
        layer.self_attn.is_causal = False
    (check,) = checks.guarded("losses", loss_checks(model, rendered))
    assert (check.name, check.verdict) == ("losses", "wrong")
    assert "no causal language model" in check.found


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        pytest.param(
            lambda nll, rows: nll + np.arange(len(rows)),
            ["batch size", "order", "shared prefix", "padding side"],
            id="order",
        ),
        pytest.param(lambda nll, rows: nll + (len(rows) == 2), ["shared prefix"], id="shared prefix"),
        pytest.param(lambda nll, rows: nll * 1.01, ["plain loop", "padding side"], id="plain loop"),
    ],
)
def test_an_engine_that_is_wrong_is_found_by_the_check_for_it(model, rendered, monkeypatch, broken, expected):
    right = model.nll
    monkeypatch.setattr(model, "nll", lambda rows: broken(right(rows), rows))
    assert wrong(loss_checks(model, rendered)) == expected


def test_a_model_that_does_not_honour_left_padding_is_found(model, rendered, monkeypatch):
    monkeypatch.setattr(losses, "plain_nll", lambda network, rows: plain_nll(network, rows) + (len(rows) > 1))
    assert wrong(loss_checks(model, rendered)) == ["padding side"]


def test_a_network_that_fails_without_the_engine_is_said_so(model, rendered, monkeypatch):
    def no_mask(input_ids, **others):
        raise ValueError("takes no mask")

    monkeypatch.setattr(model.network, "forward", no_mask)
    (check,) = checks.guarded("losses", (plain_nll(model.network, rendered) for _ in "1"))
    assert (check.name, check.verdict) == ("losses", "wrong")
    assert check.found.endswith("takes no mask")


def test_rows_that_share_no_beginning_are_said_not_to_be_checked(model):
    rows = [row(1, 2, 3, 4), row(2, 2, 3, 4)]
    assert by_name(loss_checks(model, rows))["shared prefix"].verdict == "warning"


def row(*ids, scored=1):
    mask = np.arange(len(ids)) >= len(ids) - scored
    return Rendered(id=str(ids), ids=np.array(ids, dtype=np.int32), mask=mask, truncated=False)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(5, 6, 7, 1, 2), row(9, 9, 9, 9), row(5, 6, 7, 3, 4)], (3, [0, 2])),
        (
            [row(5, 6, 7, 8), row(5, 6, 7, 8)],
            (2, [0, 1]),
        ),  # what predicts the first response token is not shared
        ([row(5, 6, 1, 2), row(5, 7, 1, 2), row(5, 8, 1, 2)], (1, [0, 1, 2])),
        ([row(1, 2), row(1, 2)], (0, [])),
    ],
)
def test_the_longest_shared_beginning(rows, expected):
    assert longest_shared_prefix(rows) == expected


def test_a_dtype_that_is_too_coarse_says_use_float32(tiny, tmp_path, rendered):
    network = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    with torch.no_grad():
        network.lm_head.weight.mul_(60)  # logits of hundreds, which bfloat16 rounds to whole numbers
    folder = shutil.copytree(tiny, tmp_path / "steep")
    network.save_pretrained(folder)
    ref = ModelRef(name=str(folder), dtype="bfloat16", device="cpu")
    (check,) = dtype_check(ref, rendered, LanguageModel(ref).nll(rendered))
    assert (check.verdict, check.remedy) == ("wrong", "use --dtype float32")
    assert check.difference_nats > check.bound_nats


def test_a_model_too_large_for_float32_is_not_compared(ref, rendered, monkeypatch):
    monkeypatch.setattr(losses, "free_and_total_bytes", lambda device: (1000, 2000))
    (check,) = dtype_check(replace(ref, dtype="bfloat16"), rendered, np.ones(len(rendered)))
    assert (check.verdict, check.found.startswith("not checked")) == ("warning", True)


@pytest.mark.parametrize(("threads", "verdict"), [(3, "ok"), (1, "warning")])
def test_threads_that_do_not_match_the_cores_are_a_warning(monkeypatch, threads, verdict):
    monkeypatch.setattr(checks, "_cores", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert checks.threads_check().verdict == verdict


# references


def adapter(network, folder, *, strength):
    worn = get_peft_model(
        network, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weight in worn.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=strength) if strength else weight.zero_()
    worn.save_pretrained(folder)
    return folder


@pytest.fixture
def fitting(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny)


@pytest.mark.parametrize(
    ("strength", "verdict", "said"),
    [(1.0, "ok", "gives the same bits"), (1e-7, "warning", "no more than float32 rounds"), (0, "wrong", "no loss at all")],
)  # fmt: skip
def test_an_adapter_must_change_losses(model, rendered, fitting, tmp_path, strength, verdict, said):
    torch.manual_seed(0)
    check = adapter_check(model, rendered, adapter(fitting, tmp_path / "a", strength=strength), "reference")
    assert (check.verdict, said in check.found) == (verdict, True), check


def test_an_adapter_of_another_base_does_not_fit(tiny, tmp_path):
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    )
    given = adapter(other, tmp_path / "a", strength=1.0)
    found = doctor(model=str(tiny), reference=str(given), loading=FULL)
    (check,) = (check for check in found.checks if check.name == "reference")
    assert (check.verdict, "does not fit" in check.found) == ("wrong", True)
    assert check.remedy == "was it trained on another base model?"


def test_an_adapter_that_stays_on_is_found(model, rendered, fitting, tmp_path, monkeypatch):
    given, wearing = adapter(fitting, tmp_path / "a", strength=1.0), ExitStack()

    @contextmanager
    def stays_on(folder):
        wearing.enter_context(LanguageModel.adapter(model, folder))
        yield

    monkeypatch.setattr(model, "adapter", stays_on)
    check = adapter_check(model, rendered, given, "reference")
    assert (check.verdict, "not give the same bits" in check.found) == ("wrong", True)


def test_a_whole_model_is_a_reference_if_it_has_the_same_tokenizer(tiny, ref, model, rendered, tmp_path):
    nll = model.nll(rendered)
    network = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        network.lm_head.weight.mul_(1.5)
    folder = shutil.copytree(tiny, tmp_path / "trained")
    network.save_pretrained(folder)
    whole = replace(ref, name=str(folder))
    check = losses.whole_model_check(whole, model.renderer.vocabulary, nll, rendered, "reference")
    assert check.verdict == "ok"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="another tokenizer"):
        losses.whole_model_check(whole, model.renderer.vocabulary, nll, rendered, "reference")


# the batch budget


@pytest.fixture
def clock(monkeypatch):
    """Let batches take the time that a function of their tokens says."""

    def use(seconds):
        monkeypatch.setattr(batch_budget, "SHARES", (0.25, 0.5, 1, 2, 4))
        monkeypatch.setattr(LanguageModel, "nll", lambda self, rows: np.ones(len(rows)))
        monkeypatch.setattr(
            batch_budget, "seconds_of", lambda _, rows: seconds(sum(len(each.ids) for each in rows))
        )

    return use


@pytest.mark.parametrize(
    ("seconds", "verdict", "said"),
    [
        pytest.param(lambda tokens: tokens / 1e5, "ok", "recommended 512 tokens", id="flat"),
        pytest.param(lambda tokens: 0.1 + tokens / 1e5, "warning", "recommended 8,192 tokens", id="overhead"),
        pytest.param(lambda tokens: (tokens / 1e4) ** 2 + 0.04, "ok", "recommended 2,048 tokens", id="peak"),
        pytest.param(lambda tokens: tokens / 100, "ok", "the default of 2,048 tokens a batch stays", id="slow machine"),
    ],
)  # fmt: skip
def test_the_smallest_budget_that_is_about_as_fast_as_any_is_recommended(
    model, rendered, clock, seconds, verdict, said
):
    clock(seconds)
    check = budget_check(model, rendered)
    assert (check.verdict, said in check.found) == (verdict, True), check


def test_no_budget_is_tried_that_might_not_fit_the_memory(model, rendered, clock, monkeypatch):
    clock(lambda tokens: tokens / 1e5)
    monkeypatch.setattr(batch_budget, "free_and_total_bytes", lambda device: (0, 1))
    rising = count()
    monkeypatch.setattr(batch_budget, "_used_bytes", lambda device: next(rising))
    check = budget_check(model, rendered)
    assert (check.verdict, "larger ones might not fit the memory" in check.found) == ("warning", True), check
