"""LoRA adapters: which layers of a network they go on, and how a saved one is put on, whole."""

import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import get_peft_model_state_dict, load_peft_weights
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers.pytorch_utils import Conv1D

from learnable.errors import LearnableError, ModelError
from learnable.models.source import is_adapter
from learnable.models.weights import OTHER_SENSE, broken_file, listed
from learnable.runs.progress import say_once

ATTENTION = re.compile(r"(^|\.)[^.]*att(n|ention)[^.]*$", re.IGNORECASE)


def attach(network: Any, folder: Path, *, name: str = "default", trainable: bool = False) -> Any:
    """Return a network that wears the adapter of a folder, each of whose weights has its place in the network.

    PEFT would begin what is missing in the file anew, leave out what has no place, and write whole weights of the base
    over the base's own.

    The network is changed, or wears other adapters already. Where the adapter is trained on, its weights are float32,
    and else of the network's dtype; ``name`` is what it is called in the network.

    Raises:
        ModelError: If the adapter is not whole, is no LoRA adapter, or does not fit the network.
    """
    check_is_adapter(folder)
    if not any(folder.glob("adapter_model.*")):
        raise ModelError(
            f"{folder} holds no weights of an adapter: there is no adapter_model.safetensors in it",
            hint="give the folder that save_pretrained wrote",
        )
    base = getattr(getattr(network, "config", None), "_name_or_path", "") or "the model"
    try:
        with warnings.catch_warnings():
            # PEFT looks for the experts of a mixture among its layers, where they are not.
            warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys")
            return _attached(network, folder, name, trainable=trainable)
    except LearnableError:
        raise
    except KeyError as error:  # a whole layer, or a token
        raise _missing(folder, [str(error.args[0])]) from error
    except Exception as error:  # an adapter of another model fails in any way
        if broken := broken_file(folder):
            raise ModelError(f"{broken} in {folder} is broken", hint="get the adapter again") from error
        said = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ModelError(
            f"the adapter {folder} does not fit {base}: {said}", hint="was it trained on another base model?"
        ) from error


def _attached(network: Any, folder: Path, name: str, *, trainable: bool) -> Any:
    config = peft.PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning:
        raise ModelError(
            f"{folder} is no LoRA adapter but {str(config.peft_type.value).lower().replace('_', ' ')}, which puts tokens "
            "of its own before each text",
            hint="give a LoRA adapter, or a whole model",
        )
    # Where it is not trained it takes the dtype of the model: it is added to every product, never rounded into the weights.
    options = {"adapter_name": name, "autocast_adapter_dtype": trainable}
    if not isinstance(network, peft.PeftModel):
        config.inference_mode = not trainable
        network = peft.PeftModelForCausalLM(network, config, **options)
    found = network.load_adapter(str(folder), is_trainable=trainable, **options)
    if found.missing_keys:
        raise _missing(folder, sorted(found.missing_keys))
    # Of what has no place, PEFT names its own kind only.
    saved = {weight for weight in load_peft_weights(str(folder), device="cpu") if "lora_" not in weight}
    wanted = get_peft_model_state_dict(network, adapter_name=name, save_embedding_layers=False)
    if extra := sorted({*found.unexpected_keys, *(saved - set(wanted))}):
        raise ModelError(
            f"the adapter {folder} has weights that this model has no place for: {listed(extra)}",
            hint="was it trained on another base model, or are weights of the base in it? then merge it, and give the "
            "whole model",
        )
    return network


def _missing(folder: Path, weights: list[str]) -> ModelError:
    again = "get the adapter again: they would be as before its training"
    return ModelError(f"weights missing in the adapter {folder}: {listed(weights)}", hint=again)


def check_is_adapter(folder: Path) -> None:
    """Raise a ``ModelError`` if a folder holds no adapter."""
    if not is_adapter(folder):
        raise ModelError(f"{folder} holds no LoRA adapter: there is no adapter_config.json in it")


def lora_targets(network: Any, *, attention: bool = False) -> list[str]:
    """Return the names of the layers that LoRA adapters go on: all linear ones that an adapter takes effect on.

    With ``attention`` only those within a layer whose name says that it attends. Left out are the output layer; layers whose weight the layer around them reads past them, as the fused kernels of
    state-space models do, in training or on one kind of device only; layers that give something other than one vector
    for each token, such as some routers; those of other senses, which text never reaches; and those that PEFT would
    take for experts by their names. Experts, one tensor for all, are no linear layers; what stays is said once.

    Raises:
        ModelError: If there is none.
    """
    head, names, lost = network.get_output_embeddings(), list[str](), set[str]()
    for place, parent in network.named_modules():
        past = _read_past(parent)
        for own, module in parent.named_children():
            name = f"{place}.{own}".lstrip(".")
            if not isinstance(module, torch.nn.Linear | Conv1D) or module is head or OTHER_SENSE.search(name):
                continue
            if own in past or not _is_plain(module) or (attention and not ATTENTION.search(place)):
                continue
            if own in lost or _taken_for_an_expert(network, own):
                lost.add(own)
            else:
                names.append(name)
    if not names:
        raise ModelError(
            f"{type(network).__name__} has no linear layer{' of attention' if attention else ''} that a LoRA adapter "
            "could go on",
            hint="take --layers linear" if attention else "train all of its weights: --method full",
        )
    _say_what_stays(network, lost)
    return names


def _taken_for_an_expert(network: Any, own: str) -> bool:
    """Return whether PEFT hands an adapter for layers of this name to the experts, as it was in older checkpoints."""
    config = peft.LoraConfig(target_modules=[own])
    try:
        convert_peft_config_for_transformers(config, network, None)
    except ValueError:  # it wants the other half of the experts' first matrix too
        return True
    return own not in (config.target_modules or ())


def _say_what_stays(network: Any, lost: set[str]) -> None:
    weights = dict(network.named_parameters())
    experts = [
        weight
        for name, weight in weights.items()
        if weight.ndim == 3
        and weight.shape[0] > 1
        and not OTHER_SENSE.search(name)
        and not isinstance(network.get_submodule(name.rpartition(".")[0]), torch.nn.Conv1d)
    ]
    if experts:
        share = sum(map(torch.numel, experts)) / sum(map(torch.numel, weights.values()))
        besides = f", and so do its layers {', '.join(sorted(lost))}, whose names PEFT takes for theirs"
        say_once(
            f"LoRA adapters go on linear layers: the experts of this {network.config.model_type} model, "
            f"{share:.0%} of its weights, stay as they are{besides if lost else ''}"
        )


def _read_past(module: Any) -> set[str]:
    """Return the layers of a state-space mixer whose ``weight`` its code uses, instead of calling them."""
    if not hasattr(module, "A_log"):
        return set()
    try:
        code = inspect.getsource(type(module))
    except (OSError, TypeError):
        return set()
    return set(re.findall(r"self\.(\w+)\.weight\b(?!\.(?:dtype|device|data)\b)", code))


def _is_plain(module: Any) -> bool:
    """Return whether a linear layer gives one vector for each vector it is given."""
    if type(module) in (torch.nn.Linear, Conv1D):
        return True
    weight = next(module.parameters())
    dtype = weight.dtype if weight.is_floating_point() else torch.float32  # a quantized layer takes any
    given = torch.zeros(1, 3, module.in_features, device=weight.device, dtype=dtype)
    try:
        with torch.no_grad():
            output = module(given)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return isinstance(output, torch.Tensor) and output.shape == (1, 3, module.out_features)
