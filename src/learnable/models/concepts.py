"""How far a token's inner representation is from that of the words that say what it means, layer by layer."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from learnable.errors import ModelError, UsageError
from learnable.models.language_model import LanguageModel
from learnable.models.lengths import LengthSwitches, batches_within
from learnable.models.network import base_network
from learnable.types import Message

STATES_AT_ONCE = {"cpu": 1 << 25, "cuda": 1 << 29}
"""Elements of the hidden states of a batch, all layers together, by kind of device: 64 MiB or 1 GiB in bfloat16."""
PLACE = "\ue5f2concept\ue5f3"
"""Stands where the token stood, in private-use characters, so that a prompt holds it nowhere else."""


_Marked = tuple[NDArray[np.int64], NDArray[np.float32]]
"""A tokenized prompt: ids (T,), and weights (T,), which add up to 1 on the tokens in question."""


def concept_distances(
    model: LanguageModel, prompts: Sequence[Sequence[Message]], *, token: str, words: str
) -> NDArray[np.float64]:
    """Return the L2 distance between the hidden states of a token and of the words that describe it.

    Each prompt is rendered up to the answer as it is, and once more with ``words`` in place of every occurrence of
    ``token`` in its turns. The states of a layer are averaged over all tokens that carry a character of an occurrence,
    in the one text and in the other, and the distance is between the two means.

    The paper's figure states neither position nor pooling. The same place in the same prompt, because the surroundings
    then differ in nothing but the concept. The mean, because it asks nothing of the number of tokens: it is the state
    itself where there is one, so a token that the tokenizer does not know as one and a description of several words
    are compared alike. Means are taken and compared in float32, also where the model computes in bfloat16. Distances
    grow with the width and the scale of a layer: compare models of one architecture, layer by layer.

    The n prompts are conversations that end before the answer; the token is any text, such as ``<sep>``, and the words
    say what it means, such as ``JSON``.

    Returns:
        float64 (layers + 1, n). Row 0 is what enters the first layer, the embeddings: 0 for a token whose row is the
        mean of those of its words (as they are tokenized in that place; unless the model adds positions here). Row l
        is the output of layer l; the last row is taken after the final norm, as transformers gives it. NaN for a
        prompt without the token.

    Raises:
        ModelError: If the chat template refuses a prompt, the tokenizer has no token for the words, or a prompt is
            longer than the model's positions.

    Source: the "conceptual distance" of DELIA (arXiv 2408.10841), its overview figure at layers 1 and 2.
    """
    for name, text in (("token", token), ("words", words)):
        if not text.strip():
            raise UsageError(
                f"{name} is {text!r}", hint="a distance needs a token and the words that say what it means"
            )
    network = base_network(model.network)
    config = network.config.get_text_config()
    cut = {number: _pieces(model, prompt, token) for number, prompt in enumerate(prompts)}
    numbers = [number for number, pieces in cut.items() if len(pieces) > 1]
    pairs = [[_marked(model, cut[number], text) for text in (token, words)] for number in numbers]
    layers = config.num_hidden_layers + 1
    distances = np.full((layers, len(prompts)), np.nan)
    elements = STATES_AT_ONCE.get(network.device.type, STATES_AT_ONCE["cpu"])
    rooms = [2 * max(len(ids) for ids, _ in pair) for pair in pairs]
    for batch in batches_within(rooms, elements // (layers * config.hidden_size)):
        texts = [marked for position in batch for marked in pairs[position]]
        distances[:, [numbers[position] for position in batch]] = _distances(network, texts)
    return distances


def comparable_prompts(
    model: LanguageModel,
    prompts: Iterable[Sequence[Message]],
    *,
    token: str,
    words: Sequence[str],
    most: int,
) -> list[Sequence[Message]]:
    """Return the first prompts, ``most`` at the most, of which ``concept_distances`` has a number with each of the words."""

    def is_taken(prompt: Sequence[Message]) -> bool:
        try:
            pieces = _pieces(model, prompt, token)
            for filling in (token, *words):
                _marked(model, pieces, filling)
        except ModelError:
            return False
        return len(pieces) > 1

    carrying = (prompt for prompt in prompts if any(token in turn.content for turn in prompt))
    return list(islice(filter(is_taken, carrying), most))


def _pieces(model: LanguageModel, prompt: Sequence[Message], token: str) -> list[str]:
    """Return the rendered prompt, cut where the token stood: what the template itself writes is left alone."""
    turns = [replace(turn, content=turn.content.replace(token, PLACE)) for turn in prompt]
    return model.renderer.asked(turns)[1].split(PLACE)


def _marked(model: LanguageModel, pieces: Sequence[str], filling: str) -> _Marked:
    """Return the tokens of the pieces with ``filling`` between them, and the weights of the tokens that carry it."""
    ends = np.cumsum([len(piece) + len(filling) for piece in pieces[:-1]])
    encoded = model.renderer.tokenizer(
        filling.join(pieces), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    starts_of_tokens, ends_of_tokens = np.asarray(encoded["offset_mapping"]).reshape(-1, 2).T
    carries = np.zeros(len(ids), dtype=np.bool_)
    for end in ends:
        inside = (ends_of_tokens > end - len(filling)) & (starts_of_tokens < end)
        if not inside.any():
            raise ModelError(f"the tokenizer has no token for {filling!r}")
        carries |= inside
    limit = model.position_limit
    if limit is not None and len(ids) > limit:
        raise ModelError(
            f"a prompt of {len(ids):,} tokens is longer than the {limit:,} positions of the model",
            hint="leave it out",
        )
    return ids, (carries / carries.sum()).astype(np.float32)


@torch.inference_mode()
def _distances(network: Any, texts: Sequence[_Marked]) -> NDArray[np.float64]:
    """Return the distances of texts 0 and 1, 2 and 3, ... in each layer, (layers + 1, len(texts) / 2)."""
    means = dict[int, torch.Tensor]()  # (layers + 1, d) each
    for group in LengthSwitches.of(network).groups([len(ids) for ids, _ in texts]):
        means |= zip(group, _means(network, [texts[position] for position in group]), strict=True)
    ones, others = (torch.stack([means[place] for place in range(at, len(texts), 2)]) for at in (0, 1))
    norms = torch.linalg.vector_norm(ones - others, dim=-1).T.cpu().numpy()
    return np.asarray(norms, dtype=np.float64)


def _means(network: Any, texts: Sequence[_Marked]) -> torch.Tensor:
    """Return the weighted mean of the states of each text in each layer, (B, layers + 1, d)."""
    # Padding stands on the right and attention is causal: no token in question sees it, and no mask is needed.
    ids, share = (
        pad_sequence([torch.from_numpy(part) for part in parts], batch_first=True).to(network.device)
        for parts in zip(*texts, strict=True)
    )
    # The network below the output layer: no logits are needed.
    states = network.base_model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    return torch.stack([torch.einsum("bt,btd->bd", share, layer.float()) for layer in states], dim=1)
