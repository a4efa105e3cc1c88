"""A selection as unsloth reads it: rows of token ids with labels, and a script that trains adapters on them."""

import json
from collections.abc import Iterable
from typing import Any

from learnable.errors import DataError
from learnable.types import Rendered

SCRIPT = "train.py"
NO_LABEL = -100
"""What transformers leaves out of the loss."""

_SCRIPT = '''\
"""Trains a LoRA adapter on train.jsonl, into the folder `model`: python train.py."""

from unsloth import FastLanguageModel  # before all else: it changes what is imported behind it

{imports}

model, tokenizer = FastLanguageModel.from_pretrained(
    model_name={model},
    max_seq_length={max_length},
    load_in_4bit={four_bit},
    use_exact_model_name=True,  # not a copy under another name
)
{template}model = FastLanguageModel.get_peft_model(
    model,
    r={rank},
    lora_alpha={alpha},
    use_gradient_checkpointing="unsloth",
    random_state={seed},
)
rows = load_dataset("json", data_files="train.jsonl", split="train")
settings = {kind}Config(
{settings}
)
{kind}Trainer(model=model, processing_class=tokenizer, train_dataset=rows, args=settings).train()
model.save_pretrained("model")
tokenizer.save_pretrained("model")
'''


def labelled(rendered: Iterable[Rendered]) -> Iterable[dict[str, Any]]:
    """Yield ``input_ids`` and ``labels`` of conversations: the tokens that are scored are those that are trained on.

    Raises:
        DataError: If the chat template refuses one.
    """
    for row in rendered:
        if row.refused is not None:
            raise DataError(
                f"example {row.id[:12]} has no tokens: {row.refused}", hint="ban the row, or drop it"
            )
        ids = row.ids.tolist()
        labels = [token if counts else NO_LABEL for token, counts in zip(ids, row.mask, strict=True)]
        yield {"input_ids": ids, "labels": labels}


def script(kind: str, settings: dict[str, Any], *, chat_template: str | None, **given: str | float) -> str:
    """Return the script, whose trainer is TRL's of this ``kind`` (SFT or DPO) with these settings of its configuration.

    ``chat_template`` names a file beside the script that takes the place of the model's own. What else is ``given`` stands
    in the script by its name.
    """
    names = ["from datasets import load_dataset", f"from trl import {kind}Config, {kind}Trainer"]
    template = ""
    if chat_template is not None:
        names = ["from pathlib import Path", "", *names]
        template = f'tokenizer.chat_template = Path("{chat_template}").read_text(encoding="utf-8")\n'
    return _SCRIPT.format(
        kind=kind,
        imports="\n".join(names),
        template=template,
        settings="\n".join(f"    {name}={_written(value)}," for name, value in settings.items()),
        **{name: _written(value) for name, value in given.items()},
    )


def _written(value: str | float) -> str:
    """Return a value as code: JSON writes a text as Python does, with the quotes of a formatter."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
