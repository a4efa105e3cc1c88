"""Shapes of data and models that people really have, and what each must give.

Every case has one row in ``CASES``: what is checked, and the result. Inputs lie in ``tests/cases``; all are made up.
To add a case, take one of the checks, or write another: a function that makes a check from what a case needs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learnable.data import pairs_of, read
from learnable.errors import LearnableError, ModelError
from learnable.models.answers import left_out as said_left_out
from learnable.models.dtype import plain_nll
from learnable.models.language_model import LanguageModel
from learnable.models.rendering import Renderer
from learnable.types import Conversation, Message, ModelRef, ToolCall

HERE = Path(__file__).parent
INPUTS = HERE / "cases"

Check = Callable[[], None]


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def answer(text: str, **others: Any) -> Message:
    return Message(role="assistant", content=text, **others)


def result(text: str, **others: Any) -> Message:
    return Message(role="tool", content=text, **others)


def call(name: str, arguments: str, **others: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments, **others)


def reads(file: str, *conversations: list[Message], tools: str = "", **options: Any) -> Check:
    """Check that the rows of a file are these conversations; options are those of ``read``."""

    def check() -> None:
        found = [
            Conversation(messages=example.messages, tools=example.tools)
            for example in read([str(INPUTS / file)], **options).iter_examples()
        ]
        assert found == [Conversation(messages=tuple(each), tools=tools) for each in conversations]

    return check


def prefers(file: str, *pairs: list[Message], **options: Any) -> Check:
    """Check that the rows of a file are pairs of these turns: the prompt, the chosen and the rejected answer."""

    def check() -> None:
        found = pairs_of(read([str(INPUTS / file)], **options))
        assert [[*pair.prompt, pair.chosen, pair.rejected] for pair in found] == [*pairs]

    return check


def refuses(file: str, *words: str, **options: Any) -> Check:
    """Check that reading stops with an error whose message and hint have the essential words."""

    def check() -> None:
        with pytest.raises(LearnableError) as caught:
            read([str(INPUTS / file)], **options)
        said = str(caught.value)
        assert [word for word in words if word not in said] == [], said

    return check


def refuses_name(given: str, *words: str) -> Check:
    """Check what is said of a name that stands for no rows here."""

    def check() -> None:
        with pytest.raises(LearnableError) as caught:
            read([given])
        said = str(caught.value)
        assert [word for word in words if word not in said] == [], said

    return check


def model_refused(folder: str, *words: str) -> Check:
    """Check that a model is not loaded, with an error of one line and a hint that have the essential words."""

    def check() -> None:
        with pytest.raises(ModelError) as caught:
            LanguageModel(ModelRef(name=str(INPUTS / folder), device="cpu"))
        said = str(caught.value)
        assert "\n" not in caught.value.message
        assert [word for word in words if word not in said] == [], said

    return check


def scores(model: str, file: str, *answers: str, left_out: str | None = None) -> Check:
    """Check the text of the tokens that count in the first row of a file, and what the template leaves out of all."""

    def check() -> None:
        renderer = Renderer.of(ModelRef(name=str(INPUTS / model)))
        rows = renderer.render(list(read([str(INPUTS / file)]).iter_examples()), max_length=10_000)
        cuts = np.flatnonzero(np.diff(rows[0].mask.astype(int))) + 1
        pieces = zip(np.split(rows[0].ids, cuts), np.split(rows[0].mask, cuts), strict=True)
        assert [renderer.decode(ids) for ids, counts in pieces if counts[0]] == list(answers)
        said = said_left_out(rows)
        assert said == "" if left_out is None else left_out in said, said

    return check


def has_no_template(model: str, *words: str) -> Check:
    """Check that a model's conversations are not rendered, with an error and a hint that have the essential words."""

    def check() -> None:
        with pytest.raises(ModelError) as caught:
            Renderer.of(ModelRef(name=str(INPUTS / model)))
        assert [word for word in words if word not in str(caught.value)] == []

    return check


def prompt_refused(folder: str, *words: str) -> Check:
    """Check that a model's tokenizer and template are refused, before its weights are loaded."""

    def check() -> None:
        with pytest.raises(ModelError) as caught:
            Renderer.of(ModelRef(name=str(INPUTS / folder))).prompt_ids([user("Name a fruit")])
        said = str(caught.value)
        assert [word for word in words if word not in said] == [], said

    return check


def same_in_a_batch(model: str, file: str, *, border: int) -> Check:
    """Check that rows on both sides of a border lose the same in one batch as each in plain transformers."""

    def check() -> None:
        loaded = LanguageModel(ModelRef(name=str(INPUTS / model), dtype="float32", device="cpu"))
        rows = loaded.renderer.render(list(read([str(INPUTS / file)]).iter_examples()), max_length=10_000)
        lengths = [len(row.ids) for row in rows]
        assert min(lengths) <= border < max(lengths)
        alone = np.concatenate([plain_nll(loaded.network, [row]) for row in rows])
        counts = np.array([row.mask.sum() for row in rows])
        np.testing.assert_allclose(loaded.nll(rows) / counts, alone / counts, rtol=0, atol=1e-5)

    return check


def elsewhere(name: str) -> Check:
    """Check that the named test, such as ``test_loading.py::test_...``, is there; it checks the case."""

    def check() -> None:
        file, _, test = name.partition("::")
        assert f"def {test}(" in (HERE / file).read_text(encoding="utf-8")

    return check


def decided(reason: str) -> Check:
    """Keep a case that was decided otherwise, with the reason."""

    def check() -> None:
        assert reason

    return check


FRUIT = [user("Name a fruit"), answer("Fig.")]
A_FIG = [user("Name a fruit"), answer("A fig.")]
KEY = [
    user("Where is the key?"),
    answer("I lost it, sorry.", trained=False),
    user("Try again."),
    answer("It is in the drawer."),
]
SNOW = [user("What colour is snow?"), answer("White.")]
BIRD = [user("Name a bird"), answer("Tit.")]
SHARDS = [[user(f"Name fruit {number}"), answer("Fig.")] for number in range(2)]
ASH = [user("What colour is ash?"), answer("Grey.")]

CASES: dict[str, Check] = {
    "F001": reads("data/alpaca_plus_context.jsonl", [user("Who came?\n\nAnn came at noon."), answer("Ann")]),
    "F002": refuses("data/dup_keys.jsonl", "the key output occurs twice"),
    # Decided otherwise: tools are no longer refused, and functions are tools.
    "F003": reads(
        "data/functions_legacy.jsonl",
        [user("Weather in Rome?"), answer("I would need a city code.")],
        tools='[{"type": "function", "function": {"name": "w", "parameters": {}}}]',
    ),
    "F004": reads(
        "data/history_swift.jsonl",
        [user("What is the capital of France?"), answer("Paris."), user("And of Spain?"), answer("Madrid.")],
    ),
    "F005": refuses("data/int_dup_cols.parquet", "columns occur twice: output"),
    "F006": refuses("data/kto_label_false.jsonl", "undesirable", "'label'", "ignore=label"),
    "F006, the other row": reads("data/kto_label_false.jsonl", SNOW, on_error="skip"),
    "F007": refuses("data/label_false.csv", "undesirable", "False"),
    "F007, the other row": reads("data/label_false.csv", ASH, on_error="skip"),
    "F008": refuses("data/mcq_options_text.jsonl", "'options'", "choices", "ignore=options"),
    "F009": refuses("data/mllm_audio.jsonl", "'audios'", "only text"),
    "F010": refuses("data/mllm_images.jsonl", "'images'", "only text"),
    "F011": refuses(
        "data/prompt_question_answer.jsonl", "second prompt in 'question'", "system=prompt,prompt=question"
    ),
    "F011, as its hint says": reads(
        "data/prompt_question_answer.jsonl",
        [
            system("You are a strict examiner. Answer with one letter."),
            user("Which is a fruit? A) fig B) rock"),
            answer("A"),
        ],
        columns="system=prompt,prompt=question",
    ),
    "F012": reads(
        "data/reasoning_content.jsonl",
        [user("What is 2+2?"), answer("4", reasoning="Two and two makes four.")],
    ),
    "F013": reads(
        "data/sharegpt_weight.jsonl",
        [
            system("Be brief."),
            user("Name a river"),
            answer("The Elbe", trained=False),
            user("Another one"),
            answer("The Po"),
        ],
    ),
    "F014": reads(
        "data/system_message_key.jsonl",
        [system("Answer like a pirate."), user("Name a fruit"), answer("Arr, a fig!")],
    ),
    "F015": reads("data/train_false.jsonl", KEY),
    "F016": reads("data/weight_zero.jsonl", KEY),
    "F017": refuses("data/zero_width_answer.jsonl", "the answer is empty"),
    "F050": reads("data/array_in_jsonl_one_line.jsonl", FRUIT, BIRD),
    "F051": reads("data/array_in_jsonl_pretty.jsonl", FRUIT, BIRD),
    "F052": refuses("data/binary.parquet", "'instruction' is binary", "cast the column to text"),
    "F053": reads("data/columns.json", FRUIT, BIRD),
    "F054": refuses("data/cp1252.csv", "Windows-1252", "save the file as UTF-8", "iconv -f WINDOWS-1252"),
    "F055": reads("data/gz_named.jsonl", FRUIT),
    "F056": reads("data/input_list_empty.jsonl", FRUIT),
    "F057": reads("data/nan_input.parquet", FRUIT),
    "F058": refuses("data/no_header.csv", "first line names the columns"),
    # Decided otherwise: preference data are read as pairs.
    "F059": prefers("data/openai_preference.jsonl", [*SNOW, answer("Green.")]),
    "F059, the chosen answers": reads(
        "data/openai_preference.jsonl", SNOW, columns="response=preferred_output,prompt=input"
    ),
    "F060": prefers("data/pref_implicit.jsonl", [*SNOW, answer("Green.")]),
    "F060, the chosen answers": reads("data/pref_implicit.jsonl", SNOW, columns="response=chosen"),
    "F061": prefers("data/pref_prompt_chosen.jsonl", [*SNOW, answer("Green.")]),
    "F061, the chosen answers": reads("data/pref_prompt_chosen.jsonl", SNOW, columns={"response": "chosen"}),
    "F062": prefers("data/pref_sharegpt_llamafactory.jsonl", [*SNOW, answer("Green.")]),
    "F062, the chosen answers": reads(
        "data/pref_sharegpt_llamafactory.jsonl", SNOW, columns="response=chosen"
    ),
    "F063": reads("data/semicolon.csv", FRUIT),
    # Decided otherwise: results of tools are no longer refused.
    "F064": reads(
        "data/sharegpt_function_response.jsonl",
        [user("Weather in Rome?"), answer("<tool_call>{}</tool_call>"), result("sun"), answer("Sunny.")],
    ),
    "F065": reads("data/spaces_header.csv", FRUIT),
    "F066": reads("data/tools_string_empty.jsonl", A_FIG),
    "F067": refuses("data/trailing_comma.json", "a comma stands before the closing ]", "remove that comma"),
    "F068": reads("data/utf16.json", [user("Name a fruit"), answer("Fig.")]),
    "F069": reads(
        "data/array_row_per_line.jsonl", FRUIT, BIRD, [user("Name a fish"), answer("Cod.")], on_error="skip"
    ),
    "F086": reads("data/by_id.json", FRUIT, BIRD),
    "F087": reads("data/completion_dict.jsonl", FRUIT),
    "F088": reads("data/conversation_human_assistant.jsonl", FRUIT),
    "F089": reads("data/developer_role.jsonl", [system("Answer in one word."), *FRUIT]),
    "F090": reads("data/dialogue.jsonl", FRUIT),
    "F091": reads("data/hubclone", *SHARDS),
    "F092": reads("data/input_output.jsonl", FRUIT),
    "F093": reads("data/inputs_targets.jsonl", FRUIT),
    "F094": reads("data/jsonl_in_json.json", FRUIT, BIRD),
    "F095": reads("data/list_of_lists.json", FRUIT),
    "F096": reads("data/messages_col.csv", FRUIT),
    "F097": reads("data/messages_json_string.jsonl", FRUIT),
    "F098": reads("data/problem_solution_only.jsonl", [user("2+2?"), answer("It is 4.")]),
    "F099": reads("data/prompt_str_completion_list.jsonl", FRUIT),
    "F100": reads("data/shards", *SHARDS),
    "F101": reads("data/sharegpt_role_GPT_u.jsonl", A_FIG),
    "F102": reads("data/sharegpt_role_Human_c.jsonl", A_FIG),
    "F103": reads("data/sharegpt_role_USER_u.jsonl", A_FIG),
    "F104": reads("data/sharegpt_role_bot_l.jsonl", A_FIG),
    "F105": reads("data/sharegpt_role_chatgpt_l.jsonl", A_FIG),
    "F106": reads("data/struct_of_lists.parquet", FRUIT),
    "F107": reads("data/top_data_and_tags.json", FRUIT),
    "F108": refuses("data/top_train_test.json", "train, test", "jq .train"),
    "F109": reads("data/x.json.gz", FRUIT),
    "F110": reads("data/x.jsonl.bz2", FRUIT),
    "F111": reads("data/x.jsonl.xz", FRUIT),
    "F112": reads("data/x.jsonl.zst", FRUIT),
    "F113": reads("data/x.pq", FRUIT),
    "F114": reads("data/shards/*.parquet", *SHARDS),
    "F115": elsewhere("test_data_reading.py::test_a_hub_id_is_loaded_with_its_config_and_split"),
    "F116": refuses_name("squad", "owner/squad"),
    "F117": refuses_name("https://example.org/x.jsonl", "addresses are not read", "download it"),
}

CASES |= {
    "F021": model_refused("models/body_only", "missing", "lm_head.weight", "LlamaModel"),
    "F022": model_refused("models/missing_weight", "missing", "model.layers.0.mlp.up_proj.weight"),
    "F023": model_refused(
        "models/config_fewer_layers", "no place for", "model.layers.1.", "number of layers"
    ),
    "F024": model_refused("models/arch_bert", "no causal language model", "a token sees those after it"),
    "F025": same_in_a_batch("models/arch_phi3_longrope", "data2/words16.jsonl", border=32),
    "F042": model_refused("models/lfs_pointer", "model.safetensors is a git-lfs pointer", "git lfs pull"),
    "F043": prompt_refused("models/vocab_special_missing", "has the token", "resize_token_embeddings"),
    "F044": elsewhere("test_families.py::test_an_adapter_of_each_family_trains_and_comes_back"),
    "F045": elsewhere("test_families.py::test_an_adapter_of_each_family_trains_and_comes_back"),
    "F046": elsewhere("test_families.py::test_an_adapter_of_each_family_trains_and_comes_back"),
    "F072": elsewhere(
        "test_model_weights.py::test_an_encoder_decoder_is_called_one_before_anything_is_loaded"
    ),
    "F073": elsewhere("test_model_weights.py::test_quantized_weights_are_the_reason_that_is_given"),
    "F073, fp8 and mxfp4": elsewhere(
        "test_model_weights.py::test_weights_in_eight_bits_are_computed_in_the_dtype_that_was_asked_for"
    ),
}


CASES |= {
    "F012, what counts": scores(
        "models/qwen3", "data/reasoning_content.jsonl", "Two and two makes four.\n</think>\n\n4<|im_end|>"
    ),
    "F013, what counts": scores("models/qwen3", "data/sharegpt_weight.jsonl", "The Po<|im_end|>"),
    "F015, what counts": scores("models/qwen3", "data/train_false.jsonl", "It is in the drawer.<|im_end|>"),
    "F016, what counts": scores("models/qwen3", "data/weight_zero.jsonl", "It is in the drawer.<|im_end|>"),
    "F018": scores(
        "models/r1",
        "data2/think24.jsonl",
        "\n\nIt is red.<｜end▁of▁sentence｜>",
        left_out="80.7% of the text of the answers, in 24 of 24 rows",
    ),
    "F018, in a run": elsewhere(
        "test_run.py::test_a_template_that_cuts_answers_is_a_warning_of_the_run_and_its_report"
    ),
    "F019": scores(
        "models/qwen3",
        "data2/think_multi.jsonl",
        "A colour.<|im_end|>",
        "It has fur.\n</think>\n\nAn animal.<|im_end|>",
        left_out="in 1 of 1 rows",
    ),
    "F020": scores("models/glm4moe", "data2/simple.jsonl", 'A Colour, "said" he.<|user|>'),
    "F070": scores("models/named_date", "data2/simple.jsonl", 'A Colour, "said" he.<|eot_id|>'),
    "F071": has_no_template(
        "models/named_nodefault", "several chat templates", "chat, rag", "--chat-template chat"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_case_gives_what_a_user_expects(case):
    CASES[case]()
