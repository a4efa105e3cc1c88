"""The only rooms, with ``train``, that know torch: loading, rendering, and the loss engine.

Names are imported when they are asked for: where models are (``model.source``) is found without torch, which takes seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnable.model.answers import LEFT_OUT_HINT, left_out
    from learnable.model.concepts import concept_distances
    from learnable.model.language_model import LanguageModel
    from learnable.model.rendering import Renderer
    from learnable.model.special_tokens import token_ids, with_tokens
    from learnable.model.static_embedding import StaticEmbedder
    from learnable.model.templates import DEFAULT_TEMPLATE, template_hint

_HOMES = {
    "DEFAULT_TEMPLATE": "templates",
    "LEFT_OUT_HINT": "answers",
    "LanguageModel": "language_model",
    "Renderer": "rendering",
    "StaticEmbedder": "static_embedding",
    "concept_distances": "concepts",
    "left_out": "answers",
    "template_hint": "templates",
    "token_ids": "special_tokens",
    "with_tokens": "special_tokens",
}

__all__ = [
    "DEFAULT_TEMPLATE",
    "LEFT_OUT_HINT",
    "LanguageModel",
    "Renderer",
    "StaticEmbedder",
    "concept_distances",
    "left_out",
    "template_hint",
    "token_ids",
    "with_tokens",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'learnable.model' has no attribute {name!r}")
    return getattr(importlib.import_module(f"learnable.model.{_HOMES[name]}"), name)
