"""The only rooms, with ``train``, that know torch: loading, rendering, and the loss engine.

Names are imported when they are asked for: where models are (``model.source``) is found without torch, which takes seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnable.models.answers import LEFT_OUT_HINT, left_out
    from learnable.models.concepts import concept_distances
    from learnable.models.language_model import LanguageModel
    from learnable.models.rendering import Renderer
    from learnable.models.special_tokens import token_ids, with_tokens
    from learnable.models.static_embedding import StaticEmbedder
    from learnable.models.templates import DEFAULT_TEMPLATE, template_hint

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
        raise AttributeError(f"module 'learnable.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"learnable.models.{_HOMES[name]}"), name)
