"""New tokens with a stated meaning: a model in, the same model with a longer vocabulary out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken

from learnable.errors import ModelError, UsageError
from learnable.models.loading import load_tokenizer, loading_errors
from learnable.models.source import identify, locate
from learnable.models.weights import quiet, read_network
from learnable.runs.files import replacing
from learnable.runs.identity import fingerprint
from learnable.runs.locks import locked
from learnable.settings import NewTokens
from learnable.types import ModelRef


def with_tokens(ref: ModelRef, tokens: NewTokens, folder: Path) -> ModelRef:
    """Return a model that knows new tokens: ``ref`` with one more row of the embedding for each, and nothing else new.

    It lies in ``folder``, which holds one for each model, tokens and initialization. The tokens are ordinary text for
    chat templates and decoding, not marks such as the end of a turn. A row is set, in the input embedding and, where that
    is another matrix, in the output embedding too, to

    - ``random``: independent normal numbers with the mean 0 and the standard deviation of the existing entries;
    - ``mean``: the mean of all existing rows (Hewitt 2021), which keeps the new token's probability moderate;
    - ``description``: the mean of the rows of the tokens of its meaning.

    Source: DELIA's authors add ``<sep>`` as a separator token and meant to draw its row at random; their slice begins
    after it, so that it keeps the initialization of the library (their code, ``utils.py``). Theirs is ``random`` here.

    Raises:
        UsageError: If a token exists already, or a meaning that is needed has no tokens.
    """
    target = folder / f"tokens-{fingerprint([identify(ref), tokens])[:16]}"
    if not (target / "config.json").is_file():
        _check(load_tokenizer(ref), tokens, ref.name)  # before anything is written
        # Several runs may share the folder: the first one builds, the others wait and find it there.
        with locked(target.with_suffix(".lock")):
            if not (target / "config.json").is_file():
                _build(ref, tokens, target)
    return replace(ref, name=str(target), revision=None)


def _build(ref: ModelRef, tokens: NewTokens, target: Path) -> None:
    tokenizer = load_tokenizer(ref)
    with loading_errors(ref):
        # The weights as they lie on the disk, whatever they are computed in.
        network = read_network(ref.name, locate(ref), dtype="auto", trust_remote_code=ref.trust_remote_code)
    described = [tokenizer(token.meaning, add_special_tokens=False)["input_ids"] for token in tokens.added]
    known = len(tokenizer)
    tokenizer.add_tokens([AddedToken(token.text, special=False, normalized=False) for token in tokens.added])
    if len(tokenizer) != known + len(tokens.added):
        raise ModelError(f"the tokenizer of {ref.name} did not take {tokens}")
    if len(tokenizer) > network.get_input_embeddings().weight.shape[0]:  # else there is padding to use
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    output = network.get_output_embeddings()
    if getattr(output, "bias", None) is not None:
        raise ModelError("the output embedding of this model has a bias, which new tokens would not get")
    embeddings = {id(part.weight): part for part in (network.get_input_embeddings(), output)}
    with torch.no_grad():
        for part in embeddings.values():
            rows = part.weight[:known].float()
            part.weight[known : len(tokenizer)] = _rows(rows, described, tokens).to(part.weight.dtype)
    with replacing(target) as aside, quiet():
        network.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def token_ids(ref: ModelRef, tokens: NewTokens) -> list[int]:
    """Return the ids of the new tokens in a model that ``with_tokens`` gave."""
    return [int(i) for i in load_tokenizer(ref).convert_tokens_to_ids([t.text for t in tokens.added])]


def _check(tokenizer: Any, tokens: NewTokens, name: str) -> None:
    vocabulary = tokenizer.get_vocab()
    for token in tokens.added:
        if token.text in vocabulary:
            raise UsageError(
                f"{token.text!r} is a token of {name} already (number {vocabulary[token.text]})",
                hint="train without --tokens to teach a token that exists, or choose another text",
            )
        described = tokenizer(token.meaning, add_special_tokens=False)["input_ids"]
        if tokens.init == "description" and not described:
            raise UsageError(
                f"the token {token.text!r} has no meaning to begin from",
                hint=f'write --tokens "{token.text}=what it means", or choose --init random or mean',
            )


def _rows(known: torch.Tensor, described: Sequence[Sequence[int]], tokens: NewTokens) -> torch.Tensor:
    """Return the new rows (k, d) of an embedding whose existing rows are ``known`` (V, d)."""
    if tokens.init == "mean":
        return known.mean(dim=0).expand(len(described), -1)
    if tokens.init == "description":
        return torch.stack([known[list(ids)].mean(dim=0) for ids in described])
    generator = torch.Generator().manual_seed(tokens.init_seed)
    return torch.randn(len(described), known.shape[1], generator=generator) * known.std()
