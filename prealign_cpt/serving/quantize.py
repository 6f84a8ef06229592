"""A copy of a folder with its Linear layers in 8 bits, for `prealign serve --quantization bnb8`.

    folder --8 bits, a scale for each row--> new folder in the format of bitsandbytes, with MANIFEST.json

vLLM's bitsandbytes plugin quantises to 4 bits while it loads, but takes 8 bits only from such a folder. Weights are
quantised as LLM.int8() does (Dettmers et al. 2022, arXiv:2208.07339, section 2.1): for row r of W,
scale_r = max|W_r|, stored integers = round(127 W_r / scale_r). Embeddings, norms and head stay as they are.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from prealign_cpt.run import manifest
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving.folder import NOT_MODEL, READ_BY_VLLM, check_servable, model_digest, read_json

LINEAR = "_proj.weight"
"""How the weights of Linear layers are named in Llama, Mistral, Qwen, Gemma and their kin."""

INDEX = "model.safetensors.index.json"

STORED = {
    "quant_method": "bitsandbytes",
    "load_in_8bit": True,
    "load_in_4bit": False,
    "llm_int8_threshold": 6.0,
    "llm_int8_skip_modules": ["lm_head"],
    "llm_int8_has_fp16_weight": False,
    "llm_int8_enable_fp32_cpu_offload": False,
}


def quantize(folder: Path, out: Path) -> dict[str, int]:
    """Write the 8-bit copy of `folder` to `out`, one file of weights at a time.

    Returns:
        `bytes_before` and `bytes` of all weights, `layers` that were quantised.

    Raises:
        MissingInputError, DataError: `folder` is not servable, is quantised already, or names its layers otherwise.
        StorageError: `out` exists, or writing failed.
    """
    before = check_servable(folder)["bytes"]
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise DataError(f"{folder}: its weights are quantised already; give the exported folder")
    layers = 0
    weight_map: dict[str, str] = {}
    with manifest.new_folder(out, {"stage": "quantize", "bits": 8, "of": model_digest(folder)}) as new:
        for path in sorted(folder.iterdir()):
            if path.suffix == ".safetensors":
                tensors, count = _quantize_file(path)
                layers += count
                weight_map |= dict.fromkeys(tensors, path.name)
                save_file(tensors, new / path.name, {"format": "pt"})
            elif path.suffix in READ_BY_VLLM and path.name not in NOT_MODEL | {INDEX}:
                shutil.copy(path, new / path.name)
        if not layers:
            raise DataError(f"{folder}: no weights named *{LINEAR}; this architecture is not known")
        if (folder / INDEX).exists():
            (new / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
        (new / "config.json").write_text(json.dumps(config | {"quantization_config": STORED}, indent=2))
        after = check_servable(new)["bytes"]
    return {"bytes_before": before, "bytes": after, "layers": layers}


def _quantize_file(path: Path) -> tuple[dict[str, torch.Tensor], int]:
    """All tensors of a file, and how many of them were quantised."""
    found: dict[str, torch.Tensor] = {}
    count = 0
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            if not name.endswith(LINEAR):
                found[name] = tensor
                continue
            layer = name.removesuffix("weight")
            scale = tensor.float().abs().amax(1)
            found[name] = (tensor.float() * (127 / scale.clamp(min=1e-30))[:, None]).round().to(torch.int8)
            found[f"{layer}SCB"] = scale
            found[f"{layer}weight_format"] = torch.tensor(0, dtype=torch.uint8)  # rows, in bitsandbytes' table
            count += 1
    return found, count
