"""Vectors of texts from a table of word vectors that comes with a pip package: no model pass."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from learnable.packages import packaged
from learnable.runs.identity import file_digest
from learnable.types import Example

PACKAGE = "wordllama"
HINT = "install them with: pip install --no-deps wordllama==0.4.0.post1"


class StaticEmbedder:
    """Mean of the word vectors of a text (WordLlama, 256 dimensions, distilled from the embeddings of large models).

    Raises:
        ModelError: If the package is not installed, or holds no vectors.
    """

    def __init__(self) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        weights, tokenizer = (
            packaged(PACKAGE, ending, what="the word vectors are", hint=HINT)
            for ending in ("_256.safetensors", "_tokenizer_config.json")
        )
        self._vectors = load_file(weights)["embedding.weight"].astype(np.float32)  # (V, d)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.key = file_digest(weights)

    def embed(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """Return the mean vector of all words of a conversation, float32 (n, d); NaN for one without a word."""
        return self.embed_texts(
            ["\n".join(message.content for message in example.messages) for example in examples]
        )

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean vector of all words of a text, float32 (n, d); NaN for one without a word."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        empty = np.full(self._vectors.shape[1], np.nan, dtype=np.float32)
        means = [self._vectors[text.ids].mean(axis=0) if text.ids else empty for text in encoded]
        return np.stack(means) if means else np.zeros((0, self._vectors.shape[1]), dtype=np.float32)
