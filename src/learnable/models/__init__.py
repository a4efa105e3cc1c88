"""A language model: found, loaded, given conversations as it reads them, measured; nothing is loaded before it is used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnable.models.language_model import LanguageModel as LanguageModel
    from learnable.models.rendering import Renderer as Renderer
    from learnable.models.source import adapter_key as adapter_key
    from learnable.models.source import identify as identify
    from learnable.models.source import is_adapter as is_adapter
    from learnable.models.source import locate as locate
    from learnable.models.static_embedding import StaticEmbedder as StaticEmbedder
else:
    _HOMES = {
        "LanguageModel": "language_model",
        "Renderer": "rendering",
        "StaticEmbedder": "static_embedding",
    } | dict.fromkeys(("adapter_key", "identify", "is_adapter", "locate"), "source")

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
