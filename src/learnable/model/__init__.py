"""The only rooms, with ``train``, that know torch: loading, rendering, and the loss engine."""

from learnable.model.answers import LEFT_OUT_HINT, left_out
from learnable.model.concepts import concept_distances
from learnable.model.language_model import LanguageModel
from learnable.model.rendering import Renderer
from learnable.model.special_tokens import token_ids, with_tokens
from learnable.model.static_embedding import StaticEmbedder
from learnable.model.templates import DEFAULT_TEMPLATE, template_hint

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
