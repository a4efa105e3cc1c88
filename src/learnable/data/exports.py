"""A selection as other trainers read it: its conversations in one file, and a configuration that trains on them."""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, starmap
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml

from learnable.data import unsloth
from learnable.data.card_fit import CardFit, ModelSize, card_fit
from learnable.data.pairs import answers_of
from learnable.data.pool import each_of, load_pool
from learnable.errors import DataError
from learnable.runs.files import write_text
from learnable.runs.progress import say
from learnable.settings import Tuning
from learnable.types import Example, Pair, Rendered

Trainer = Literal["trl", "unsloth", "llamafactory", "axolotl"]

ROWS = "train.jsonl"
CONFIGURATION, PAIR_CONFIGURATION = "sft.yaml", "dpo.yaml"
DATASET_INFO = "dataset_info.json"
TEMPLATE = "chat_template.jinja"

Render = Callable[[Sequence[Example]], Iterable[Rendered]]
"""Turns examples into the tokens that were scored."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """What an export is for.

    Args:
        model: What is trained, as the trainer finds it.
        max_length: Longest example in tokens; longer ones are cut, as they were when scored.
        render: What gives the tokens of an example, for unsloth.
        size: Of the model; None where it is not known.
        chat_template: The text of one that was chosen instead of the model's own; LLaMA-Factory takes none but its own.
        pairs: Whether pairs are learned from, and not conversations.
    """

    model: str
    max_length: int
    render: Render
    size: ModelSize | None = None
    chat_template: str | None = None
    pairs: bool = False

    @cached_property
    def fit(self) -> CardFit:
        """How many rows, of one text or two, are taken at once."""
        return card_fit(
            self.size,
            max_length=self.max_length,
            batch_size=_TUNING.batch_size,
            rank=_TUNING.rank,
            texts_per_row=2 if self.pairs else 1,
        )

    @property
    def configuration(self) -> str:
        """The file of the settings."""
        return PAIR_CONFIGURATION if self.pairs else CONFIGURATION

    @property
    def arguments(self) -> dict[str, Any]:
        """What TRL, unsloth and LLaMA-Factory all take: arguments of the trainer of transformers."""
        return {
            "num_train_epochs": _TUNING.epochs,
            "learning_rate": PAIR_LEARNING_RATE if self.pairs else _TUNING.peak_learning_rate,
            "lr_scheduler_type": "cosine",
            "report_to": "none",
            "output_dir": "model",
        }

    @property
    def batches(self) -> dict[str, int]:
        """Rows of a micro-batch, and how many of these make a step, by the same arguments."""
        return {
            "per_device_train_batch_size": self.fit.rows,
            "gradient_accumulation_steps": self.fit.accumulation,
        }


def write_export(
    pool: Path, ids: Collection[str], folder: Path, *, trainer: Trainer, to: Destination
) -> list[Path]:
    """Write the chosen conversations or pairs and what the trainer needs to train on them, and return the files.

    All sources and formats come together in one ``train.jsonl``, in the order of the pool. It holds the conversations
    that were scored, not the rows they were read from: no trainer joins the parts of a row in a way of its own.
    ``sft.yaml``, of pairs ``dpo.yaml``, has LoRA with the defaults of ``Tuning``; paths in it are relative to the folder.

    ``pool`` is its folder, and ``ids`` name each example or pair to write once, in any order. Micro-batches are as large as
    the size of the model lets a card of 24 GB hold, see ``card_fit``, and a step has as many of them as make up the batch of
    ``Tuning``. For unsloth it is a script, and the rows are tokens: its trainer reads conversations in a way that differs by
    version.

    Raises:
        DataError: If an id is not in the pool, or the trainer would leave out a conversation or a part of it.

    Source: the keys are those of TRL 1.16, LLaMA-Factory 0.9.5 (``data/README.md``), Axolotl 0.19 (``docs/dataset-formats``)
        and unsloth 2026.10.
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
    chosen = replace(load_pool(pool), conversations=found.lazy())
    to = replace(to, pairs=chosen.holds_pairs)
    exported, files = export(each_of(chosen), trainer, to)
    say(f"{trainer}: {to.fit}")
    texts = {ROWS: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in exported)}
    for name, content in files.items():
        if isinstance(content, str):
            texts[name] = content
        elif name == DATASET_INFO:
            texts[name] = json.dumps(content, indent=2) + "\n"
        else:
            texts[name] = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if to.chat_template is not None and trainer != "llamafactory":
        texts[TEMPLATE] = to.chat_template
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


_Rows = Iterable[dict[str, Any]]
_Exported = tuple[_Rows, dict[str, Any]]


def export(learned: Sequence[Example] | Sequence[Pair], trainer: Trainer, to: Destination) -> _Exported:
    """Return the rows of ``train.jsonl`` and the content of the other files by their names; see ``write_export``."""
    exports: dict[Trainer, Callable[[Any, Destination], _Exported]] = {
        "trl": _trl,
        "unsloth": _unsloth,
        "llamafactory": _llamafactory,
        "axolotl": _axolotl,
    }
    return exports[trainer](learned, to)


def _learn_last_only(examples: Sequence[Example], trainer: str) -> bool:
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
                f"{trainer} learns all answers of a conversation or the last one alone, and other answers of "
                f"example {example.id[:12]} are context only",
                hint="export for unsloth or axolotl, which mask single turns; or choose among rows that learn their last answer",
            )
    return True


_TUNING = Tuning()
PAIR_LEARNING_RATE, BETA = 5e-5, 0.1
_DPO = {"loss_type": "sigmoid", "beta": BETA}


def _trl(learned: Any, to: Destination) -> _Exported:
    rows, loss = (_pair_rows(learned), _DPO) if to.pairs else _trl_rows(learned)
    settings = {
        "model_name_or_path": to.model,
        "dtype": "bfloat16",
        **({"load_in_4bit": True} if to.fit.four_bit else {}),
        "datasets": [{"path": "json", "data_files": ROWS}],
        "max_length": to.max_length,
        "use_peft": True,
        "lora_r": _TUNING.rank,
        "lora_alpha": 2 * _TUNING.rank,
        "lora_target_modules": "all-linear",
        **loss,
        **to.arguments,
        **to.batches,
        **({"chat_template_path": TEMPLATE} if to.chat_template is not None else {}),
    }
    return rows, {to.configuration: settings}


def _trl_rows(examples: Sequence[Example]) -> _Exported:
    counts = [sum(message.role == "assistant" for message in example.messages) for example in examples]
    # TRL masks the prompt of a pair under any template, but the user's turns of a conversation only under templates
    # that it knows.
    pairs = _learn_last_only(examples, "TRL") or all(count == 1 for count in counts)
    tools = any(example.tools for example in examples)

    def row(example: Example) -> dict[str, Any]:
        turns = [message.turn(arguments_as_text=False) for message in example.messages]
        parts = {"prompt": turns[:-1], "completion": turns[-1:]} if pairs else {"messages": turns}
        # As JSON text: a column of objects would mix the keys of all of them.
        return parts | ({"tools": example.tools or None} if tools else {})

    return map(row, examples), {"completion_only_loss" if pairs else "assistant_only_loss": True}


def _pair_rows(pairs: Sequence[Pair]) -> _Rows:
    tools = any(pair.tools for pair in pairs)

    def row(pair: Pair) -> dict[str, Any]:
        sides = {"prompt": pair.prompt, "chosen": [pair.chosen], "rejected": [pair.rejected]}
        turns = {name: [turn.turn(arguments_as_text=False) for turn in side] for name, side in sides.items()}
        return turns | ({"tools": pair.tools or None} if tools else {})

    return map(row, pairs)


def _unsloth(learned: Any, to: Destination) -> _Exported:
    text = unsloth.script(
        "DPO" if to.pairs else "SFT",
        {"max_length": to.max_length, **(_DPO if to.pairs else {}), **to.arguments, **to.batches},
        chat_template=None if to.chat_template is None else TEMPLATE,
        model=to.model,
        max_length=to.max_length,
        four_bit=to.fit.four_bit,
        rank=_TUNING.rank,
        alpha=2 * _TUNING.rank,
        seed=_TUNING.seed,
    )
    rows = _pair_rows(learned) if to.pairs else unsloth.labelled(to.render(learned))
    return rows, {unsloth.SCRIPT: text}


def _llamafactory(learned: Any, to: Destination) -> _Exported:
    only_last = not to.pairs and _learn_last_only(learned, "LLaMA-Factory")
    sides = [answers_of(each) if to.pairs else (each,) for each in learned]
    examples = [*chain(*sides)]
    for example in examples:
        _check_llamafactory(example)
    tools = any(example.tools for example in examples)
    calls = any(message.tool_calls for example in examples for message in example.messages)
    settings = {
        "model_name_or_path": to.model,
        **({"quantization_bit": 4} if to.fit.four_bit else {}),
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": _TUNING.rank,
        "lora_alpha": 2 * _TUNING.rank,
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": "selection",
        "cutoff_len": to.max_length,
        "bf16": True,
        "stage": "dpo" if to.pairs else "sft",
        **({"pref_loss": "sigmoid", "pref_beta": BETA} if to.pairs else {}),
        **to.arguments,
        **({"mask_history": True} if only_last else {}),
        **to.batches,
    }

    def row(example: Example, *rejected: Example) -> dict[str, Any]:
        own = _llamafactory_row(example, tools=tools)
        if not rejected:
            return own
        *prompt, answer = own["messages"]
        other = _llamafactory_row(*rejected, tools=tools)["messages"][-1]
        return own | {"messages": prompt, "chosen": answer, "rejected": other}

    description = _llamafactory_description(calls=tools or calls, pairs=to.pairs)
    return starmap(row, sides), {to.configuration: settings, DATASET_INFO: {"selection": description}}


def _llamafactory_description(*, calls: bool, pairs: bool) -> dict[str, Any]:
    # All of them: a tag that is left out has no default once there are others.
    tags = {name: name for name in ("role", "content", "user", "assistant", "system")}
    tags |= {"observation": "tool", "function": "function_call"} if calls else {}
    columns = ["messages", *(["tools"] if calls else []), *(["chosen", "rejected"] if pairs else [])]
    return {
        "file_name": ROWS,
        "formatting": "sharegpt",
        "columns": {name: name for name in columns},
        "tags": {f"{name}_tag": tag for name, tag in tags.items()},
        **({"ranking": True} if pairs else {}),
    }


def _llamafactory_row(example: Example, *, tools: bool) -> dict[str, Any]:
    """Return a row for LLaMA-Factory: calls are JSON text in a turn of their own role, reasoning is in the text."""
    turns = []
    for message in example.messages:
        role, content = message.role, message.content
        if message.tool_calls:
            functions = [call.turn_part(arguments_as_text=False)["function"] for call in message.tool_calls]
            role, content = "function_call", json.dumps(functions, ensure_ascii=False)
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
            hint="it takes calls or text in a turn, not both; drop the row, or export for trl, unsloth or axolotl",
        )


def _axolotl(learned: Any, to: Destination) -> _Exported:
    rows, dataset, own = _axolotl_pairs(learned) if to.pairs else _axolotl_rows(learned)
    settings = {
        "base_model": to.model,
        **({"load_in_4bit": True} if to.fit.four_bit else {}),
        "datasets": [dataset],
        "sequence_len": to.max_length,
        "adapter": "qlora" if to.fit.four_bit else "lora",
        "lora_r": _TUNING.rank,
        "lora_alpha": 2 * _TUNING.rank,
        "lora_target_linear": True,
        "num_epochs": _TUNING.epochs,
        "lr_scheduler": "cosine",
        "optimizer": "adamw_torch",
        "micro_batch_size": to.fit.rows,
        "gradient_accumulation_steps": to.fit.accumulation,
        "gradient_checkpointing": True,
        "bf16": "auto",
        "output_dir": "model",
        **own,
        "learning_rate": to.arguments["learning_rate"],
        **({} if to.chat_template is None else {"chat_template": "jinja", "chat_template_jinja": TEMPLATE}),
    }
    return rows, {to.configuration: settings}


def _axolotl_rows(examples: Sequence[Example]) -> tuple[_Rows, dict[str, Any], dict[str, Any]]:
    def row(example: Example) -> dict[str, Any]:
        turns = [turn.turn() | ({} if turn.trained else {"train": False}) for turn in example.messages]
        return {"messages": turns} | ({"tools": json.loads(example.tools)} if example.tools else {})

    masks = any(not message.trained for example in examples for message in example.messages)
    dataset = {
        "path": ROWS,
        "type": "chat_template",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
        **({"message_field_training": "train"} if masks else {}),
    }
    # Left to itself, it drops longer rows.
    return map(row, examples), dataset, {"excess_length_strategy": "truncate"}


def _axolotl_pairs(pairs: Sequence[Pair]) -> tuple[_Rows, dict[str, Any], dict[str, Any]]:
    for pair in pairs:
        turns = (*pair.prompt, pair.chosen, pair.rejected)
        if pair.tools or any(set(turn.turn()) > {"role", "content"} for turn in turns):
            raise DataError(
                f"Axolotl would leave out calls, tools or reasoning of pair {pair.id[:12]}",
                hint="its DPO takes texts alone; drop the row, or export for trl, unsloth or llamafactory",
            )

    def row(pair: Pair) -> dict[str, Any]:
        answers = {"chosen": pair.chosen.turn(), "rejected": pair.rejected.turn()}
        return {"messages": [turn.turn() for turn in pair.prompt], **answers}

    dataset = {"path": ROWS, "split": "train", "type": "chat_template.default"}
    return map(row, pairs), dataset, {"rl": "dpo", "rl_beta": BETA}
