"""For tests, ours and yours: a tiny model built on the spot, toy examples, and contracts that every method keeps."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from learnable.fingerprint import example_id
from learnable.types import Example, Message

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_GENERATION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_WORDS = (
    "the a of to in is and what who why how colour sky blue red grass green sun moon sea water fire one two three "
    "four five six seven eight nine ten big small cat dog bird fish tree house road name city river song book"
).split()


def tiny_model(folder: Path, *, template: str | None = CHATML, seed: int = 0) -> Path:
    """Write a Llama of about 30,000 parameters, with its tokenizer, that loads like any model folder.

    Args:
        folder: Where to write it.
        template: Its chat template; None makes it a base model.
        seed: Seeds the weights.

    Returns:
        The folder.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(_WORDS)] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    fast.chat_template = template
    torch.manual_seed(seed)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
            # Larger than usual, so that an untrained model has opinions and losses differ.
            initializer_range=0.2,
        )
    )
    network.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def toy_examples(n: int, *, seed: int = 0, turns: int = 1) -> list[Example]:
    """Return n conversations of words that the tiny model's tokenizer knows, of differing lengths."""
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(n):
        messages = []
        for _ in range(turns):
            asked, answered = (" ".join(rng.choice(_WORDS, size=rng.integers(2, 12))) for _ in range(2))
            messages += [Message(role="user", content=f"{asked}?"), Message(role="assistant", content=answered)]
        source = ("left", "right")[number % 2]
        examples.append(Example(id=example_id(messages), messages=tuple(messages), source=source))
    return examples


def write_messages(examples: Sequence[Example], path: Path) -> Path:
    """Write conversations as a JSONL file in the ``messages`` format."""
    rows = [{"messages": [{"role": m.role, "content": m.content} for m in example.messages]} for example in examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
