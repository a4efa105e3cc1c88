"""The rooms that know torch, for those above them: what is in them is imported when it is first used.

So a command starts without torch, and says once, at its top, which of these rooms it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnable import diagnosis as diagnosis
    from learnable import models as models
    from learnable import training as training
    from learnable.diagnosis import batch_budget, checks, losses, pace, templates
    from learnable.models import cluster, concepts, special_tokens, vllm_generator
    from learnable.training import costate, federated, gradients, rewards, target_gradients


class _Room:
    """Gives what a room names, and its modules."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        room = import_module(self._name)
        return getattr(room, name) if hasattr(room, name) else import_module(f"{self._name}.{name}")


if not TYPE_CHECKING:
    diagnosis, models, training = map(
        _Room, ("learnable.diagnosis", "learnable.models", "learnable.training")
    )
