"""Is a Hugging Face folder fit to be served? And under which name, so that a client can tell it from any other?

folder --check_servable--> rows, bytes      refused: code, pickles, damaged files, tokens without a row
       --model_name------> "demo"
       --pinned_name-----> "demo@1f0c9a2b7d3e"   the name with the digest of everything that vLLM reads
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from prealign_cpt.run import manifest
from prealign_cpt.run.errors import DataError, MissingInputError

Device = Literal["auto", "cpu", "cuda"]

EXECUTABLE = frozenset(
    {".py", ".pyc", ".pyd", ".so", ".dll"}
    | {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".keras", ".msgpack"}
)
"""Endings of code, and of weights whose loading may run code. None belongs into a folder that is served."""

READ_BY_VLLM = frozenset({".json", ".jinja", ".model", ".safetensors", ".txt"})

NOT_MODEL = frozenset({manifest.NAME, "parity.json", "chat.json"})
"""Files of such an ending that an export adds about itself; they are no part of the model's digest."""

DIGEST_LENGTH = 12
PINNED = re.compile(rf".*@[0-9a-f]{{{DIGEST_LENGTH}}}")

EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
HEADS = ("lm_head.weight",)

CPU_HEAD_DIMS = frozenset({32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512})
"""What vLLM 0.32's attention for CPU computes. With another size the server starts, and dies at its first request."""


def model_name(folder: Path) -> str:
    """The name a folder is served under: its own, or the run's for the folder `export` of a run, and for its `chat`
    the run's with "-chat"."""
    folder = folder.resolve()
    if folder.name == "chat" and (folder / "chat.json").is_file():
        return f"{folder.parent.name}-chat"
    return folder.parent.name if folder.name == "export" else folder.name


def model_digest(folder: Path) -> str:
    """Hex SHA-256 over the names and contents of all files that vLLM reads: the same for the same model, wherever it
    lies and whenever it was exported. Hashes are taken from the folder's manifest where it has one (`check_servable`
    compares them with the files), otherwise from the files.

    Raises:
        DataError: the manifest is damaged.
    """
    if (folder / manifest.NAME).exists():
        hashes = {name: entry["sha256"] for name, entry in manifest.read_manifest(folder)["files"].items()}
    else:
        hashes = {str(path.relative_to(folder)): manifest.sha256(path) for path in folder.rglob("*") if path.is_file()}
    return manifest.digest({name: value for name, value in hashes.items() if _is_read(Path(name))})


def pinned_name(name: str, digest: str) -> str:
    """The second name of a served model: a request that uses it is refused by every other model."""
    return f"{name}@{digest[:DIGEST_LENGTH]}"


def _is_read(path: Path) -> bool:
    return path.suffix.lower() in READ_BY_VLLM and path.name not in NOT_MODEL


def check_servable(folder: Path, device: Device | None = None) -> dict[str, int]:
    """Refuse a folder that would run code, answer garbage or bring the server down; start nothing.

    Checked: configuration, tokenizer and safetensors are there; no code (`auto_map`, Python files, pickles); input and
    output rows and `vocab_size` are one number; every token has a row; special ids are tokens. If the folder has a
    manifest, every listed file has the listed hash, and no file that vLLM would read is missing from the list. With a
    device: vLLM can compute the model's attention there.

    Returns:
        `rows` (of the embedding), `num_tokens` (rows from there on are padding, as many bases have it) and `bytes` (of
        the weights).

    Raises:
        MissingInputError: no such folder, or a file is missing.
        DataError: anything else of the above.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; give a Hugging Face folder such as runs/NAME/export")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXECUTABLE:
            raise DataError(f"{path}: code or pickled weights are never served; export the model as safetensors")
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise MissingInputError(f"{folder / name}: missing; export the model with its fast tokenizer")
    # tokenizer.json is left out: there "auto_map" may be an ordinary piece of the vocabulary.
    configs = {path.name: read_json(path) for path in sorted(folder.glob("*config*.json"))}
    if (folder / manifest.NAME).exists():
        _check_manifest(folder)
    shapes, size = _tensor_shapes(folder)
    rows = _check_rows(folder, configs["config.json"], shapes)
    num_tokens = max(_tokenizer(folder).get_vocab().values()) + 1
    if num_tokens > rows:
        raise DataError(f"{folder}: {rows} rows but {num_tokens} tokens; give the tokenizer that belongs to this model")
    for name in ("config.json", "generation_config.json"):
        _check_special_ids(folder / name, configs.get(name, {}), num_tokens)
    if device == "cpu":
        _check_head_dim(folder / "config.json", configs["config.json"])
    return {"rows": rows, "num_tokens": num_tokens, "bytes": size}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that names no code.

    Raises:
        DataError: it is something else, or has `auto_map` at any depth.
    """

    def refuse_code(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # At any depth: vLLM followed auto_map in nested configurations too (CVE-2025-66448).
        if any(key == "auto_map" for key, _ in pairs):
            raise DataError(f"{path}: auto_map names code to run; only models of transformers itself are served")
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse_code)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}; export the model again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object; export the model again")
    return content


def _check_manifest(folder: Path) -> None:
    listed = set(manifest.verify(folder)["files"]) | {manifest.NAME}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in READ_BY_VLLM and path.is_file() and str(path.relative_to(folder)) not in listed:
            raise DataError(f"{path}: not in the folder's manifest; remove the file or export the model again")


def _tensor_shapes(folder: Path) -> tuple[dict[str, list[int]], int]:
    """Shapes from the headers of all weight files, without reading the weights; and the files' bytes together."""
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.exists():
        for name in sorted(set(read_json(index).get("weight_map", {}).values())):
            if folder / name not in files:
                raise MissingInputError(f"{folder / name}: missing although {index.name} lists it; export again")
    if not files:
        raise MissingInputError(f"{folder}: no *.safetensors; export the model as safetensors")
    shapes: dict[str, list[int]] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: damaged: {error}; export the model again") from error
    return shapes, sum(path.stat().st_size for path in files)


def _check_rows(folder: Path, config: dict[str, Any], shapes: dict[str, list[int]]) -> int:
    """One number of rows everywhere; return it."""
    embeddings = {key: shape for key, shape in shapes.items() if key.endswith(EMBEDDINGS)}
    heads = {key: shape for key, shape in shapes.items() if key.endswith(HEADS)}
    if len(embeddings) != 1:
        raise DataError(f"{folder}: one embedding expected, found {sorted(embeddings) or 'none'}; unknown architecture")
    # vLLM fills a head that is missing with random values and serves on (vllm#53019).
    if not config.get("tie_word_embeddings", False) and not heads:
        raise DataError(f"{folder}: no lm_head.weight although the model is not tied; export it again")
    vocab_size = config.get("vocab_size")
    for key, shape in (embeddings | heads).items():
        if shape[0] != vocab_size:
            raise DataError(
                f"{folder}: {key} has {shape[0]} rows, config.json's vocab_size is {vocab_size}; export again"
            )
    (rows,) = {shape[0] for shape in embeddings.values()}
    return int(rows)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer  # takes seconds, and most refusals come before it

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # tokenizers raises bare Exception for a damaged file.
    except Exception as error:
        raise DataError(f"{folder}: the tokenizer does not load: {error}; export the model again") from error


def _check_special_ids(path: Path, config: dict[str, Any], num_tokens: int) -> None:
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = config.get(key)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (isinstance(number, int) and 0 <= number < num_tokens):
                raise DataError(
                    f"{path}: {key} is {number!r}, which is not one of the {num_tokens} tokens; export again"
                )


def _check_head_dim(path: Path, config: dict[str, Any]) -> None:
    head_dim = config.get("head_dim")
    if head_dim is None and config.get("num_attention_heads"):
        head_dim = config["hidden_size"] // config["num_attention_heads"]
    if head_dim is not None and head_dim not in CPU_HEAD_DIMS:
        known = ", ".join(map(str, sorted(CPU_HEAD_DIMS)))
        raise DataError(f"{path}: head_dim {head_dim}: vLLM on CPU computes only {known}; serve with device cuda")
