"""A selection as other trainers read it: its conversations in one file, and a configuration that trains on them."""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml

from learnable.errors import DataError
from learnable.runs.files import replacing
from learnable.settings import Tuning
from learnable.types import Example, examples_of

Trainer = Literal["trl", "llamafactory", "axolotl"]

ROWS = "train.jsonl"
CONFIGURATION = "sft.yaml"
DATASET_INFO = "dataset_info.json"
TEMPLATE = "chat_template.jinja"
_DATASET = "selection"
_TUNING = Tuning()
_CHAT_TEMPLATE: dict[str, dict[str, Any]] = {
    "trl": {"chat_template_path": TEMPLATE},
    "axolotl": {"chat_template": "jinja", "chat_template_jinja": TEMPLATE},
}


def write_export(
    pool: Path,
    ids: Collection[str],
    folder: Path,
    *,
    trainer: Trainer,
    model: str,
    max_length: int,
    chat_template: str | None = None,
) -> list[Path]:
    """Write the chosen conversations and what the trainer needs to train on them, and return the files.

    All sources and formats come together in one ``train.jsonl``, in the order of the pool. It holds the conversations
    that were scored, not the rows they were read from: no trainer joins the parts of a row in a way of its own.
    ``sft.yaml`` has LoRA with the defaults of ``Tuning``; paths in it are relative to the folder.

    Args:
        pool: Folder of the pool.
        ids: Ids of the examples to write, each once, in any order.
        folder: Where the files go; made if it is not there.
        trainer: Who reads them.
        model: The model to train: a hub id, or a folder.
        max_length: Longest example in tokens; longer ones are cut, as they were when scored.
        chat_template: Template that was chosen instead of the model's own. LLaMA-Factory takes none but its own.

    Raises:
        DataError: If an id is not in the pool, or the trainer would leave out a conversation or a part of it.

    Source: the keys are those of TRL 1.16, LLaMA-Factory (``data/README.md``) and Axolotl (``docs/dataset-formats``).
    """
    # The chosen conversations only: a pool may be larger than memory.
    wanted = pl.LazyFrame({"id": list(ids)}, schema={"id": pl.String})
    rows = pl.scan_parquet(pool / "examples.parquet")
    found = rows.join(wanted, on="id", how="semi", maintain_order="left").collect(engine="streaming")
    if found.height != len(ids):
        raise DataError(
            f"{len(ids) - found.height:,} of {len(ids):,} chosen ids are not in {pool}",
            hint="choose from the data that was scored",
        )
    exported, files = export(list(examples_of(found)), trainer=trainer, model=model, max_length=max_length)
    if chat_template is not None and trainer in _CHAT_TEMPLATE:
        files[CONFIGURATION] |= _CHAT_TEMPLATE[trainer]
    texts = {ROWS: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in exported)}
    for name, content in files.items():
        if name == DATASET_INFO:
            texts[name] = json.dumps(content, indent=2) + "\n"
        else:
            texts[name] = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if chat_template is not None and trainer in _CHAT_TEMPLATE:
        texts[TEMPLATE] = chat_template
    for name, text in texts.items():
        with replacing(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def export(
    examples: Sequence[Example], *, trainer: Trainer, model: str, max_length: int
) -> tuple[Iterable[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the rows of ``train.jsonl`` and the content of the other files by their names; see ``write_export``."""
    if trainer == "axolotl":
        masks = any(not message.trained for example in examples for message in example.messages)
        return map(_axolotl_row, examples), {CONFIGURATION: _axolotl(model, max_length, masks=masks)}
    only_last = _learn_last_only(examples, trainer)
    tools = any(example.tools for example in examples)
    if trainer == "trl":
        # TRL masks the prompt of a pair under any template, but the user's turns of a conversation only under templates
        # that it knows.
        pairs = only_last or all(_answers(example) == 1 for example in examples)
        rows = (_trl_row(example, pairs=pairs, tools=tools) for example in examples)
        return rows, {CONFIGURATION: _trl(model, max_length, pairs=pairs)}
    for example in examples:
        _check_llamafactory(example)
    calls = any(message.tool_calls for example in examples for message in example.messages)
    description = _description(tools=tools or calls)
    settings = _llamafactory(model, max_length) | ({"mask_history": True} if only_last else {})
    files = {CONFIGURATION: settings, DATASET_INFO: {_DATASET: description}}
    return (_llamafactory_row(example, tools=tools) for example in examples), files


def _learn_last_only(examples: Sequence[Example], trainer: Trainer) -> bool:
    """Tell whether some answers are context only, and the last ones are all that is to learn."""
    answers = [
        [each.trained for each in example.messages if each.role == "assistant"] for example in examples
    ]
    if all(map(all, answers)):
        return False
    for example, learned in zip(examples, answers, strict=True):
        last = example.messages[-1]
        if sum(learned) != 1 or not (last.role == "assistant" and last.trained):
            raise DataError(
                f"{_NAMES[trainer]} learns all answers of a conversation or the last one alone, and other answers of "
                f"example {example.id[:12]} are context only",
                hint="export for axolotl, which masks single turns; or choose among rows that learn their last answer",
            )
    return True


_NAMES = {"trl": "TRL", "llamafactory": "LLaMA-Factory", "axolotl": "Axolotl"}


def _answers(example: Example) -> int:
    return sum(message.role == "assistant" for message in example.messages)


def _trl_row(example: Example, *, pairs: bool, tools: bool) -> dict[str, Any]:
    """Return a row for TRL, which reads tools as JSON text: a column of objects would mix the keys of all of them."""
    turns = [message.turn(arguments_as_text=False) for message in example.messages]
    row = {"prompt": turns[:-1], "completion": turns[-1:]} if pairs else {"messages": turns}
    return row | ({"tools": example.tools or None} if tools else {})


def _axolotl_row(example: Example) -> dict[str, Any]:
    """Return a row for Axolotl, which makes objects of arguments itself, and has a key for turns to leave out."""
    turns = [turn.turn() | ({} if turn.trained else {_TRAINING: False}) for turn in example.messages]
    return {"messages": turns} | ({"tools": json.loads(example.tools)} if example.tools else {})


_TRAINING = "train"


def _llamafactory_row(example: Example, *, tools: bool) -> dict[str, Any]:
    """Return a row for LLaMA-Factory: calls are JSON text in a turn of their own role, reasoning is in the text."""
    turns = []
    for message in example.messages:
        role, content = message.role, message.content
        if message.tool_calls:
            calls = [
                {"name": call.name, "arguments": json.loads(call.arguments)} for call in message.tool_calls
            ]
            role, content = "function_call", json.dumps(calls, ensure_ascii=False)
        if message.reasoning:
            content = f"<think>\n{message.reasoning}\n</think>\n\n{content}"
        turns.append({"role": role, "content": content})
    return {"messages": turns} | ({"tools": example.tools} if tools else {})


def _check_llamafactory(example: Example) -> None:
    """Refuse what LLaMA-Factory leaves out with no more than a line in its log, and what it has no place for."""
    roles = [message.role for message in example.messages]
    turns = roles[1:] if roles[0] == "system" else roles
    asks, answers = set(turns[::2]), set(turns[1::2])
    if len(turns) % 2 or not asks <= {"user", "tool"} or answers != {"assistant"}:
        raise DataError(
            f"LLaMA-Factory would leave out example {example.id[:12]}: its turns are {', '.join(roles)}",
            hint="it takes questions (or results of tools) and answers by turns, after at most one system turn; merge "
            "turns, or drop the row",
        )
    if any(message.tool_calls and message.content.strip() for message in example.messages):
        raise DataError(
            f"LLaMA-Factory would leave out text of example {example.id[:12]}: it stands beside a call",
            hint="it takes calls or text in a turn, not both; drop the row, or export for trl or axolotl",
        )


def _arguments() -> dict[str, Any]:
    """Return what TRL and LLaMA-Factory both take: arguments of the trainer of transformers."""
    return {
        "num_train_epochs": _TUNING.epochs,
        "learning_rate": _TUNING.peak_learning_rate,
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": _TUNING.batch_size,
        "report_to": "none",
        "output_dir": "model",
    }


def _trl(model: str, max_length: int, *, pairs: bool) -> dict[str, Any]:
    return {
        "model_name_or_path": model,
        "datasets": [{"path": "json", "data_files": ROWS}],
        **({"completion_only_loss": True} if pairs else {"assistant_only_loss": True}),
        "max_length": max_length,
        "use_peft": True,
        "lora_r": _TUNING.rank,
        "lora_alpha": 2 * _TUNING.rank,
        "lora_target_modules": "all-linear",
        **_arguments(),
    }


def _description(*, tools: bool) -> dict[str, Any]:
    columns = ("messages", "tools") if tools else ("messages",)
    # All of them: a tag that is left out has no default once there are others.
    tags = {name: name for name in ("role", "content", "user", "assistant", "system")}
    tags |= {"observation": "tool", "function": "function_call"} if tools else {}
    return {
        "file_name": ROWS,
        "formatting": "sharegpt",
        "columns": {name: name for name in columns},
        "tags": {f"{name}_tag": tag for name, tag in tags.items()},
    }


def _llamafactory(model: str, max_length: int) -> dict[str, Any]:
    return {
        "model_name_or_path": model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": _TUNING.rank,
        "lora_alpha": 2 * _TUNING.rank,
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": _DATASET,
        "cutoff_len": max_length,
        **_arguments(),
    }


def _axolotl(model: str, max_length: int, *, masks: bool) -> dict[str, Any]:
    rows = {
        "path": ROWS,
        "type": "chat_template",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
        **({"message_field_training": _TRAINING} if masks else {}),
    }
    return {
        "base_model": model,
        "datasets": [rows],
        "sequence_len": max_length,
        # Left to itself, it drops longer rows.
        "excess_length_strategy": "truncate",
        "adapter": "lora",
        "lora_r": _TUNING.rank,
        "lora_alpha": 2 * _TUNING.rank,
        "lora_target_linear": True,
        "num_epochs": _TUNING.epochs,
        "learning_rate": _TUNING.peak_learning_rate,
        "lr_scheduler": "cosine",
        "optimizer": "adamw_torch",
        "micro_batch_size": _TUNING.batch_size,
        "gradient_accumulation_steps": 1,
        "bf16": "auto",
        "output_dir": "model",
    }
