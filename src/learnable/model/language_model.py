"""A loaded model: renders, measures, and wears adapters over one set of weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learnable.errors import ModelError
from learnable.model.loading import load_network
from learnable.model.losses import batch_nll
from learnable.model.rendering import Renderer
from learnable.model.source import adapter_key, identify, is_adapter
from learnable.types import ModelRef, Rendered

BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768, "mps": 4_096}


class LanguageModel:
    """A causal language model on its device, with its tokenizer; implements ``types.Model``.

    Args:
        ref: Which model.

    Raises:
        ModelError: If it cannot be found or loaded.
    """

    def __init__(self, ref: ModelRef) -> None:
        self.ref = ref
        self.network = load_network(ref)
        self.renderer = Renderer.of(ref)
        self._key = self._base_key = identify(ref)
        self._adapters: dict[str, str] = {}

    @property
    def key(self) -> str:
        """Identity of weights, active adapter, chat template and dtype."""
        return self._key

    @property
    def dtype(self) -> str:
        """Name of the dtype the model computes in."""
        return str(self.network.dtype).removeprefix("torch.")

    @property
    def batch_tokens(self) -> int:
        """How many tokens, padding included, one forward pass takes."""
        return BATCH_TOKENS.get(self.network.device.type, BATCH_TOKENS["cpu"])

    def nll(self, rendered: Sequence[Rendered]) -> NDArray[np.float64]:
        """Return the summed nll of the response tokens in nats, (n,).

        A batch that does not fit the GPU's memory is halved until it does.
        """
        try:
            return batch_nll(self.network, rendered)
        except torch.cuda.OutOfMemoryError as error:
            if len(rendered) == 1:
                raise ModelError(
                    f"one example of {len(rendered[0].ids):,} tokens does not fit the GPU's memory",
                    hint="lower max_length, or take a smaller model or dtype",
                ) from error
        torch.cuda.empty_cache()
        half = len(rendered) // 2
        return np.concatenate([self.nll(rendered[:half]), self.nll(rendered[half:])])

    @contextmanager
    def adapter(self, folder: Path) -> Iterator[None]:
        """Wear the LoRA adapter of ``folder`` within the block; the base weights stay the same, in memory once.

        Raises:
            ModelError: If the adapter does not fit this model.
        """
        import peft

        if not is_adapter(folder):
            raise ModelError(f"{folder} holds no LoRA adapter: there is no adapter_config.json in it")
        key = adapter_key(self._base_key, folder)
        if key not in self._adapters:
            name = f"adapter-{len(self._adapters)}"
            try:
                self._attach(folder, name)
            except (RuntimeError, ValueError, OSError) as error:
                raise ModelError(
                    f"the adapter {folder} does not fit {self.ref.name}: {str(error).splitlines()[0]}",
                    hint="was it trained on another base model?",
                ) from error
            self._adapters[key] = name
        assert isinstance(self.network, peft.PeftModel)
        self.network.set_adapter(self._adapters[key])
        self.network.base_model.enable_adapter_layers()
        self._key = key
        try:
            yield
        finally:
            self.network.base_model.disable_adapter_layers()
            self._key = self._base_key

    def _attach(self, folder: Path, name: str) -> None:
        import peft

        # The adapter takes the dtype of the model: it is added to every product, never rounded into the weights.
        options: dict[str, Any] = {"adapter_name": name, "autocast_adapter_dtype": False}
        if isinstance(self.network, peft.PeftModel):
            self.network.load_adapter(str(folder), **options)
        else:
            self.network = peft.PeftModel.from_pretrained(self.network, str(folder), **options)
        self.network.eval()
