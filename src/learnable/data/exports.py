"""A selection as other trainers read it: its conversations in one file, and a configuration that trains on them."""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml

from learnable.atomic import replacing
from learnable.errors import DataError
from learnable.types import Example, Message, Tuning, examples_of

Trainer = Literal["trl", "llamafactory", "axolotl"]

ROWS = "train.jsonl"
CONFIGURATION = "sft.yaml"
DATASET_INFO = "dataset_info.json"
_DATASET = "selection"


def write_export(
    pool: Path, ids: Collection[str], folder: Path, *, trainer: Trainer, model: str, max_length: int
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

    Raises:
        DataError: If an id is not in the pool, or the trainer would leave out a conversation.
        DiskError: If the folder cannot be written.

    Source: the keys are those of TRL 1.16, LLaMA-Factory (``data/README.md``) and Axolotl (``docs/dataset-formats``).
    """
    examples = _chosen(pool, ids)
    rows, files = export(examples, trainer=trainer, model=model, max_length=max_length)
    with replacing(folder / ROWS) as part, part.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name, content in files.items():
        with replacing(folder / name) as part:
            part.write_text(_text(name, content), encoding="utf-8")
    return [folder / name for name in (ROWS, *files)]


def _chosen(pool: Path, ids: Collection[str]) -> list[Example]:
    """Read the chosen conversations only: a pool may be larger than memory."""
    wanted = pl.LazyFrame({"id": list(ids)}, schema={"id": pl.String})
    rows = pl.scan_parquet(pool / "examples.parquet")
    found = rows.join(wanted, on="id", how="semi", maintain_order="left").collect(engine="streaming")
    if found.height != len(ids):
        raise DataError(
            f"{len(ids) - found.height:,} of {len(ids):,} chosen ids are not in {pool}",
            hint="choose from the data that was scored",
        )
    return list(examples_of(found))


def export(
    examples: Sequence[Example], *, trainer: Trainer, model: str, max_length: int
) -> tuple[Iterable[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the rows of ``train.jsonl`` and the content of the other files by their names; see ``write_export``."""
    if trainer == "trl":
        # TRL masks the prompt of a pair under any template, but the user's turns of a conversation only under templates
        # that it knows.
        pairs = all(_answers(example) == 1 for example in examples)
        return map(_pair if pairs else _turns, examples), {CONFIGURATION: _trl(model, max_length, pairs)}
    if trainer == "llamafactory":
        for example in examples:
            _check_alternating(example)
        files = {CONFIGURATION: _llamafactory(model, max_length), DATASET_INFO: {_DATASET: _DESCRIPTION}}
        return map(_turns, examples), files
    return map(_turns, examples), {CONFIGURATION: _axolotl(model, max_length)}


def _text(name: str, content: dict[str, Any]) -> str:
    if name.endswith(".json"):
        return json.dumps(content, indent=2) + "\n"
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _answers(example: Example) -> int:
    return sum(message.role == "assistant" for message in example.messages)


def _plain(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _turns(example: Example) -> dict[str, Any]:
    return {"messages": _plain(example.messages)}


def _pair(example: Example) -> dict[str, Any]:
    return {"prompt": _plain(example.messages[:-1]), "completion": _plain(example.messages[-1:])}


def _check_alternating(example: Example) -> None:
    """Refuse what LLaMA-Factory leaves out with no more than a line in its log."""
    roles = [message.role for message in example.messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise DataError(
            f"LLaMA-Factory would leave out example {example.id[:12]}: its turns are {', '.join(roles)}",
            hint="it takes user and assistant turns by turns, after at most one system turn; merge turns, or drop the row",
        )


def _arguments(tuning: Tuning) -> dict[str, Any]:
    """Return what TRL and LLaMA-Factory both take: arguments of the trainer of transformers."""
    return {
        "num_train_epochs": tuning.epochs,
        "learning_rate": tuning.peak_learning_rate,
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": tuning.batch_size,
        "report_to": "none",
        "output_dir": "model",
    }


def _trl(model: str, max_length: int, pairs: bool) -> dict[str, Any]:  # noqa: FBT001
    tuning = Tuning()
    return {
        "model_name_or_path": model,
        "datasets": [{"path": "json", "data_files": ROWS}],
        **({"completion_only_loss": True} if pairs else {"assistant_only_loss": True}),
        "max_length": max_length,
        "use_peft": True,
        "lora_r": tuning.rank,
        "lora_alpha": 2 * tuning.rank,
        "lora_target_modules": "all-linear",
        **_arguments(tuning),
    }


_DESCRIPTION = {
    "file_name": ROWS,
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    # All of them: a tag that is left out has no default once there are others.
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def _llamafactory(model: str, max_length: int) -> dict[str, Any]:
    tuning = Tuning()
    return {
        "model_name_or_path": model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": tuning.rank,
        "lora_alpha": 2 * tuning.rank,
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": _DATASET,
        "cutoff_len": max_length,
        **_arguments(tuning),
    }


def _axolotl(model: str, max_length: int) -> dict[str, Any]:
    tuning = Tuning()
    rows = {"path": ROWS, "type": "chat_template", "roles_to_train": ["assistant"], "train_on_eos": "turn"}
    return {
        "base_model": model,
        "datasets": [rows],
        "sequence_len": max_length,
        # Left to itself, it drops longer rows.
        "excess_length_strategy": "truncate",
        "adapter": "lora",
        "lora_r": tuning.rank,
        "lora_alpha": 2 * tuning.rank,
        "lora_target_linear": True,
        "num_epochs": tuning.epochs,
        "learning_rate": tuning.peak_learning_rate,
        "lr_scheduler": "cosine",
        "optimizer": "adamw_torch",
        "micro_batch_size": tuning.batch_size,
        "gradient_accumulation_steps": 1,
        "bf16": "auto",
        "output_dir": "model",
    }
