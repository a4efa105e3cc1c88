"""A reward learned from pairs, and a policy trained by it: TRL's trainers, given what is rendered here."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback

from learnable.models.adapters import lora_targets
from learnable.models.loading import load_network, load_tokenizer
from learnable.models.turns import plain_turn
from learnable.models.weights import quiet
from learnable.packages import needed
from learnable.runs.files import replacing
from learnable.settings import Tuning
from learnable.training.adapters import lora
from learnable.types import Message, ModelRef, Rendered

SIDES = ("chosen_ids", "rejected_ids")
"""Columns of TRL's pairs that are tokens already."""
CENTER = 0.01
"""How strongly rewards are kept around 0: pairs say nothing of where they lie."""


def write_whole(ref: ModelRef, folder: Path) -> Path:
    """Write a model and its tokenizer as plain transformers loads them; a folder that is there is kept."""
    if not folder.is_dir():
        with replacing(folder) as aside, quiet():
            load_network(ref).save_pretrained(aside)
            load_tokenizer(ref).save_pretrained(aside)
    return folder


def train_reward(
    whole: Path, pairs: Sequence[tuple[Rendered, Rendered]], folder: Path, *, tuning: Tuning
) -> Path:
    """Train a reward that is higher for the first of each pair; a folder that is there is kept.

    It is a linear head on the last token of a copy of the model, adapters on its layers, by TRL's ``RewardTrainer``:
    ``-log sigmoid(reward of the first - reward of the second)``. The model is ``whole`` as ``write_whole`` left it, and the
    reward goes into ``folder``, merged.

    Raises:
        UsageError: If TRL is missing.
    """
    if folder.is_dir():
        return folder
    trl, datasets = (needed(name, by="learnable run rft", extra="rft") for name in ("trl", "datasets"))
    with replacing(folder) as aside, quiet():
        torch.manual_seed(tuning.seed)
        network = _with_head(whole)
        targets = [name for name in lora_targets(network) if name != "score"]
        trainer = trl.RewardTrainer(
            network,
            args=trl.RewardConfig(
                num_train_epochs=tuning.epochs,
                per_device_train_batch_size=tuning.batch_size,
                center_rewards_coefficient=CENTER,
                max_length=None,
                **_arguments(aside, tuning, network),
            ),
            train_dataset=datasets.Dataset.from_dict(
                {name: [pair[place].ids.tolist() for pair in pairs] for place, name in enumerate(SIDES)}
            ),
            processing_class=AutoTokenizer.from_pretrained(whole),
            peft_config=LoraConfig(
                r=tuning.rank,
                lora_alpha=2 * tuning.rank,
                lora_dropout=0.0,
                target_modules=targets,
                modules_to_save=["score"],
                task_type="SEQ_CLS",
            ),
        )
        _run(trainer)
        trainer.model.merge_and_unload().save_pretrained(aside)
    return folder


def rewards_of(folder: Path, rendered: Sequence[Rendered]) -> list[float]:
    """Return the reward of each example."""
    network = _with_head(folder).eval()
    rows = (torch.from_numpy(each.ids).long()[None].to(network.device) for each in rendered)
    with torch.no_grad():
        return [float(network(input_ids=ids).logits[0, 0]) for ids in rows]


def train_policy(
    whole: Path,
    prompts: Sequence[Sequence[Message]],
    score: Callable[[Sequence[Sequence[Message]], Sequence[str]], list[float]],
    folder: Path,
    *,
    tuning: Tuning,
    steps: int,
    beta: float,
    new_tokens: int,
) -> Path:
    """Train adapters on a model by the rewards of what it answers, with TRL's ``RLOOTrainer``; a folder that is there is kept.

    The model is ``whole`` as ``write_whole`` left it, and what KL is counted from, at the price ``beta``. ``batch_size``
    counts answers, two of each prompt.
    """
    if folder.is_dir():
        return folder
    trl, datasets = (needed(name, by="learnable run rft", extra="rft") for name in ("trl", "datasets"))

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
        asked = [
            [Message(role=turn["role"], content=turn["content"]) for turn in prompt] for prompt in prompts
        ]
        return score(asked, [turns[0]["content"] for turns in completions])

    with replacing(folder) as aside, quiet():
        torch.manual_seed(tuning.seed)
        network = load_network(ModelRef(name=str(whole), dtype="float32"))
        trainer = trl.RLOOTrainer(
            network,
            reward_funcs=reward,
            args=trl.RLOOConfig(
                max_steps=steps,
                per_device_train_batch_size=tuning.batch_size,
                num_generations=2,
                max_completion_length=new_tokens,
                beta=beta,
                temperature=1.0,
                **_arguments(aside, tuning, network),
            ),
            train_dataset=datasets.Dataset.from_dict(
                {"prompt": [list(map(plain_turn, prompt)) for prompt in prompts]}
            ),
            processing_class=AutoTokenizer.from_pretrained(whole, padding_side="left"),
            peft_config=lora(tuning, network),
        )
        _run(trainer)
        trainer.model.save_pretrained(aside)
    return folder


def _with_head(folder: Path) -> Any:
    """Return a model with a linear head for one number, read at the last token that is no padding."""
    network: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32
    )
    return network


def _run(trainer: Any) -> None:
    """Train, without the lines and files that a trainer leaves."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)


def _arguments(folder: Path, tuning: Tuning, network: Any) -> dict[str, Any]:
    """Return what both trainers take alike."""
    return {
        "output_dir": str(folder / "trainer"),
        "learning_rate": tuning.peak_learning_rate,
        "warmup_steps": 0,
        "seed": tuning.seed,
        "use_cpu": network.device.type == "cpu",
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
