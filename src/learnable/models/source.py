"""Where a model's files are and what identifies them; nothing here loads weights."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from learnable.data.card_fit import ModelSize
from learnable.errors import ModelError, closest, first_line
from learnable.hub import unreachable
from learnable.models.cache import remembered_digest
from learnable.models.gguf import converted, is_converted, starter_gguf
from learnable.runs.identity import file_digest, fingerprint
from learnable.runs.progress import say
from learnable.types import ModelRef

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TEXTS = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")
_NOT_IDENTITY = ("README", "training.json", "generation_config.json", ".index.json")
_BATCHED_WRONG = (
    "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "llama4_text",
    "mamba", "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next",
    "recurrent_gemma", "zamba2",
)  # fmt: skip
"""Architectures whose rows could see each other, or be counted from the beginning of the batch."""

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
POINTER_BYTES = 1 << 10
"""A git-lfs pointer is smaller than this."""

_ADAPTER_PATHS = ("base_model_name_or_path", "parent_library", "revision")
_ADAPTER_SETS = ("target_modules", "exclude_modules")
"""Settings that PEFT holds as sets: the order in which it writes them is no part of an adapter."""


def locate(ref: ModelRef, *, weights: bool = True, adapter: bool = False) -> Path:
    """Return the local folder that holds a model: as given, downloaded from the hub, or converted from a GGUF file.

    From the hub its ``weights`` are fetched too, or its tokenizer and configuration alone. With ``adapter`` a LoRA
    adapter will do as well.

    Raises:
        ModelError: If there is no such model.
    """
    if (gguf := _gguf_of(ref)) is not None:
        return converted(gguf)
    path = Path(ref.name).expanduser()
    if path.is_dir():
        return _checked(path, adapter=adapter)
    if _HUB_ID.fullmatch(ref.name):
        return _checked(_from_hub(ref, weights=weights), adapter=adapter)
    hint = "give a model folder, a hub id such as Qwen/Qwen3-0.6B, a .gguf file or 'starter'"
    raise ModelError(f"there is no model {ref.name!r}", hint=_near(path) or hint)


def look_up(ref: ModelRef, *, adapter: bool = False) -> None:
    """Notice a model that is not there, or is none, as ``locate`` does, without its weights or a conversion."""
    if _gguf_of(ref) is None:
        locate(ref, weights=False, adapter=adapter)


def _gguf_of(ref: ModelRef) -> Path | None:
    """Return the GGUF file that a name stands for; None where it stands for something else."""
    if ref.name == "starter":
        return starter_gguf()
    path = Path(ref.name).expanduser()
    if not path.is_file():
        return None
    _refuse_pointers([path])
    if path.suffix != ".gguf":
        raise ModelError(
            f"{path} is a file, but not a GGUF file",
            hint="give a model folder, a hub id, a .gguf file or 'starter'",
        )
    return path


def concrete_dtype(ref: ModelRef) -> Literal["float32", "bfloat16"]:
    """Return the dtype of a model that is opened; raises a ``ValueError`` if it is ``auto`` still."""
    if ref.dtype == "auto":
        raise ValueError(f"the dtype of {ref.name} is auto: open the model with dtype.resolved first")
    return ref.dtype


def identify(ref: ModelRef) -> str:
    """Return the key of a model, its dtype resolved: weights, tokenizer, chat template, dtype, not where they lie.

    Hashing reads every weight file once; what is remembered of it holds until the file, or either end of it, changes.
    """
    dtype, folder = concrete_dtype(ref), locate(ref)
    whole, chosen = identity(folder, dtype), ref.chat_template
    if chosen is None:
        return whole
    # The name stands for a template that is among others in a file of the model, and so in its identity.
    places = (folder / "additional_chat_templates" / f"{chosen}.jinja", Path(chosen).expanduser())
    template = next((file_digest(place) for place in places if place.is_file()), chosen)
    return fingerprint({"model": whole, "chat_template": template})


def position_limit(ref: ModelRef) -> int | None:
    """Return how many positions a model has, None where its configuration does not say."""
    return _number(ref, "max_position_embeddings", "n_positions")


def embedding_rows(ref: ModelRef) -> int | None:
    """Return for how many tokens a model has embeddings, None where its configuration does not say."""
    return _number(ref, "vocab_size", "padded_vocab_size")


def size_of(ref: ModelRef) -> ModelSize | None:
    """Return the numbers of a model that lies here in files of safetensors; None of another, or where some are not said."""
    from safetensors import safe_open

    if not is_here(ref):
        return None
    folder, parameters = locate(ref), 0
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, framework="np") as opened:
            parameters += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    numbers = {
        "layers": _number(ref, "num_hidden_layers", "n_layer"),
        "width": _number(ref, "hidden_size", "n_embd"),
        "vocabulary": embedding_rows(ref),
    }
    known = {name: number for name, number in numbers.items() if number}
    return ModelSize(parameters=parameters, **known) if parameters and known == numbers else None


def _number(ref: ModelRef, *names: str) -> int | None:
    config = _config(locate(ref, weights=False))
    text = config.get("text_config", config)
    return next((int(text[name]) for name in names if text.get(name)), None)


def quantization(folder: Path) -> str | None:
    """Return the method by which the weights in a folder are quantized; None where they are plain."""
    settings = _config(folder).get("quantization_config") or {}
    return str(settings.get("quant_method", "unknown")) if settings else None


def is_here(ref: ModelRef) -> bool:
    """Tell whether a model can be identified without downloading or converting anything."""
    path = Path(ref.name).expanduser()
    if ref.name == "starter" or path.is_file():
        return is_converted(starter_gguf() if ref.name == "starter" else path)
    if path.is_dir() or not _HUB_ID.fullmatch(ref.name):
        return True
    cached = cached_snapshot(ref)
    return cached is not None and _is_whole(cached, weights=True, code=ref.trust_remote_code)


def adapter_key(base_key: str, folder: Path) -> str:
    """Return the key of a model with a LoRA adapter: the base, the adapter's weights and its settings."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    settings = {
        name: sorted(value) if name in _ADAPTER_SETS and isinstance(value, list) else value
        for name, value in config.items()
        if name not in _ADAPTER_PATHS
    }
    weights = [file_digest(file) for file in sorted(folder.glob("adapter_model*"))]
    written = json.dumps(settings, sort_keys=True)
    return fingerprint({"base": base_key, "adapter": weights, "settings": written})


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds a LoRA adapter (PEFT format) instead of a whole model."""
    return (folder / "adapter_config.json").is_file()


def identity(folder: Path, dtype: str) -> str:
    """Return the identity of the model in a folder: the content of its files, and the dtype it computes in."""
    found = {file for pattern in (*_WEIGHTS, *_TEXTS) for file in folder.glob(pattern) if file.is_file()}
    files = sorted(file for file in found if not file.name.endswith(_NOT_IDENTITY))
    digests = {file.name: remembered_digest(file) for file in files}
    content: dict[str, Any] = {"files": digests, "dtype": dtype}
    config = _config(folder)
    text = config.get("text_config") or config
    given = text.get("rope_parameters") or text.get("rope_scaling") or {}
    ropes = [rope for rope in (given, *given.values()) if isinstance(rope, Mapping)]
    kinds = {str(rope.get("rope_type") or rope.get("type")) for rope in ropes}
    # Losses of such a model could depend on the batch before version 0.2: they are measured anew.
    if text.get("model_type") in _BATCHED_WRONG or kinds & {"longrope", "su", "dynamic"}:
        content["batches"] = 2
    return fingerprint(content)


def _checked(folder: Path, *, adapter: bool) -> Path:
    if is_adapter(folder) and not adapter:
        raise ModelError(
            f"{folder} holds a LoRA adapter, not a whole model",
            hint="give its base model as the model, and this folder as reference.model",
        )
    if not is_adapter(folder) and not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no model: there is no config.json in it",
            hint="give a folder saved by save_pretrained",
        )
    _refuse_pointers(folder.iterdir())
    if not is_adapter(folder) and (config := _config(folder)).get("is_encoder_decoder"):
        raise ModelError(
            f"{folder} holds an encoder-decoder model ({config.get('model_type')}), which has no loss of "
            "an answer from left to right",
            hint="give a causal language model, such as a Llama or a Qwen",
        )
    return folder


def _refuse_pointers(files: Iterable[Path]) -> None:
    """Refuse what git left in place of large files where git-lfs is not set up."""
    for file in sorted(files):
        if not file.is_file() or file.stat().st_size > POINTER_BYTES:
            continue
        if file.read_bytes().startswith(b"version https://git-lfs"):
            raise ModelError(
                f"{file} is a git-lfs pointer, not the file itself",
                hint=f"fetch it: cd {file.parent} && git lfs install && git lfs pull; or download the model again",
            )


def _config(folder: Path) -> dict[str, Any]:
    """Return the configuration of the model in a folder; raises a ``ModelError`` if it cannot be read."""
    file, mend = folder / "config.json", "download it again, or mend it"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON: {error}", hint=mend) from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} holds no object", hint=mend)
    return config


def _near(path: Path) -> str | None:
    """Return a hint with the name that is closest to a mistyped one: beside it, or the starter; None if none is."""
    beside = list(path.parent.iterdir()) if path.parent.is_dir() else []
    models = {entry.name for entry in beside if entry.is_dir() or entry.suffix == ".gguf"}
    close = closest(path.name, models | ({"starter"} if path.parent == Path() else set()))
    whole = close if close in (None, "starter") else str(path.parent / close)
    return f"did you mean {whole!r}?" if whole else None


def _from_hub(ref: ModelRef, *, weights: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    cached = cached_snapshot(ref)
    if cached is not None and _is_whole(cached, weights=weights, code=ref.trust_remote_code):
        return cached
    if why := unreachable():
        raise _not_got(ref, why)
    wanted = [pattern for pattern in _TEXTS if pattern != "*.py" or ref.trust_remote_code]
    try:
        if weights:
            names = HfApi().list_repo_files(ref.name, revision=ref.revision)
            wanted.append(_WEIGHTS[not any(name.endswith(".safetensors") for name in names)])
            say(f"fetching {ref.name} from the model hub")
        return Path(snapshot_download(ref.name, revision=ref.revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise _not_got(ref, first_line(error)) from error


def _not_got(ref: ModelRef, why: str) -> ModelError:
    return ModelError(
        f"cannot get the model {ref.name!r}: {why}",
        hint=_near(Path(ref.name))
        or "there is no folder of that name here either; check the name, the network, HF_HUB_OFFLINE and "
        "whether the model asks for a login",
    )


def cached_snapshot(ref: ModelRef) -> Path | None:
    """Return where a hub model lies on this machine, whole or in part; None when nothing of it is here."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(ref.name, revision=ref.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _is_whole(folder: Path, *, weights: bool, code: bool) -> bool:
    """Tell whether a snapshot holds all that was asked for; a download that was interrupted does not."""
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return False
    if code and not any(folder.glob("*.py")):
        return False
    if not weights:
        return any(folder.glob("tokenizer*"))
    indices = [json.loads(index.read_text(encoding="utf-8")) for index in folder.glob("*.index.json")]
    if not indices:
        return any(any(folder.glob(pattern)) for pattern in _WEIGHTS)
    return any(all((folder / shard).is_file() for shard in index["weight_map"].values()) for index in indices)
