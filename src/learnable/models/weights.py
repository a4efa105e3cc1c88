"""A network from its checkpoint: every weight is taken from there, and every weight there has its place."""

import logging
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from learnable.errors import ModelError
from learnable.models.memory import network_in_memory
from learnable.runs.progress import say_once

_REPORTS = logging.getLogger("transformers.modeling_utils")
OTHER_SENSE = re.compile(r"vis(ion|ual)|image|video|audio|speech|mtp|nextn|medusa|eagle")
"""Names of parts beside the language model: other senses, and heads that guess further tokens."""


def read_network(name: str, folder: Path, **options: Any) -> Any:
    """Return the network of a checkpoint, each of whose weights the checkpoint has, in the size that it has there.

    transformers would fill what is missing with random numbers, other ones at each load, and leave out what has no
    place, with a note on standard error; both give losses of a model that does not exist.

    What a checkpoint may have beyond the network: numbers that the network computes itself (masks, positions), and
    whole parts beside the language model, which are said once. The options are those of ``from_pretrained``.

    Raises:
        ModelError: If a weight is missing, has no place, or has another size.
        Exception: What transformers raises.
    """
    if (network := network_in_memory(folder)) is not None:
        return network.to(options["dtype"])
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with _reports() as reports:
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
        except RuntimeError as error:
            if not (failed := re.findall(r"^(\S+)\s*\|\s*CONVERSION", "\n".join(reports), re.MULTILINE)):
                raise
            raise ModelError(
                f"weights of {name} cannot be put together from its checkpoint: {listed(failed)}",
                hint="some of their parts, such as experts, are missing, too many, or of another size: "
                "get the model again, or correct its config.json",
            ) from error
    network, found = loaded
    _check_missing(name, network, found["missing_keys"])
    _check_sizes(name, found["mismatched_keys"])
    _check_unexpected(name, network, found["unexpected_keys"])
    return network


def broken_file(folder: Path) -> str | None:
    """Return the name of a file of weights that cannot be read, such as half a download; None where all can be."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError:
            return file.name
    for file in sorted(folder.glob("*.bin")):
        with file.open("rb") as opened:
            pickled = opened.read(1) == b"\x80"  # as torch wrote them before it wrote archives
        if not pickled and not zipfile.is_zipfile(file):
            return file.name
    return None


def _check_missing(name: str, network: Any, missing: Iterable[str]) -> None:
    if not (missing := sorted(missing)):
        return
    made, loaded = (network.config.architectures or [""])[0], type(network).__name__
    hint = "they would be random numbers, other ones at each load: get the model again, or correct its config.json"
    if made and made != loaded:
        hint = f"its config.json says {made}, and a {loaded} is needed: give the model that it was made from"
    raise ModelError(f"weights missing in the checkpoint of {name}: {listed(missing)}", hint=hint)


def _check_sizes(name: str, mismatched: Iterable[tuple[str, Iterable[int], Iterable[int]]]) -> None:
    if not (wrong := sorted(mismatched)):
        return
    weight, here, wanted = wrong[0]
    raise ModelError(
        f"weights of another size in the checkpoint of {name}: {weight} is {tuple(here)}, and its config.json asks "
        f"for {tuple(wanted)}" + (f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""),
        hint="give the config.json that belongs to these weights",
    )


def _check_unexpected(name: str, network: Any, unexpected: Iterable[str]) -> None:
    modules = {module for module, _ in network.named_modules()}
    computed = {buffer for buffer, _ in network.named_buffers()}
    extra = sorted(each for each in set(unexpected) - computed if not each.endswith(".masked_bias"))
    parts = {weight: _part_beside(network.config.get_text_config(), modules, weight) for weight in extra}
    if lost := [weight for weight, part in parts.items() if part is None]:
        raise ModelError(
            f"weights in the checkpoint of {name} that its network has no place for: {listed(lost)}",
            hint="the model would compute without them: give the config.json that belongs to these weights "
            "(its number of layers, its biases), or get the model again",
        )
    if parts:
        counted = ", ".join(f"{part} ({count:,} weights)" for part, count in Counter(parts.values()).items())
        say_once(f"{name}: parts of the checkpoint that are not its language model are left out: {counted}")


def _part_beside(config: Any, modules: set[str], weight: str) -> str | None:
    """Return the part beside the language model that a weight belongs to; None where it belongs into the network.

    Such a part stands beside the network's own (``v_head``, ``visual``), has the name of another sense or of a further
    head (``model.vision_tower``, ``model.mtp``), or is a layer that only guesses further tokens: one of the
    ``num_nextn_predict_layers`` after the last.
    """
    path = weight.split(".")
    depth = next(depth for depth in range(len(path), -1, -1) if ".".join(path[:depth]) in modules)
    part = ".".join(path[: depth + 1])
    if (depth == 0 and len(path) > 1) or OTHER_SENSE.search(path[min(depth, len(path) - 1)]):
        return part
    layers = getattr(config, "num_hidden_layers", None) or 0
    further = getattr(config, "num_nextn_predict_layers", None) or 0
    number = path[depth] if depth < len(path) else ""
    return part if number.isdigit() and layers <= int(number) < layers + further else None


def listed(weights: list[str], *, most: int = 3) -> str:
    """Return the first names of a list in words, and how many more there are."""
    more = f" and {len(weights) - most:,} more" if len(weights) > most else ""
    return ", ".join(weights[:most]) + more


@contextmanager
def _reports() -> Iterator[list[str]]:
    """Keep transformers' tables of weights from standard error; gives them as texts."""
    kept: list[str] = []

    def passes(record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in (text := record.getMessage()):
            return True
        kept.append(text)
        return False

    _REPORTS.addFilter(passes)
    try:
        yield kept
    finally:
        _REPORTS.removeFilter(passes)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars of transformers; ours say what is going on."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
