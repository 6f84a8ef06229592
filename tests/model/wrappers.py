"""Tiny multimodal models with random weights, of the classes that transformers has, in the layouts that are about."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

ROWS = 420

TEXT: dict[str, Any] = {
    **{"vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2},
    **{"pad_token_id": 0},
}
OTHER: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"image_size": 28, "patch_size": 14, "num_channels": 3},
}

OLD, NEW, SOUND = "language_model.model.", "model.language_model.", "language_model.model.model."


def make_wrapper(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    model_type: str = "gemma3",
    text_type: str = "",
    text: dict[str, Any] | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Save a wrapper with its tokenizer; the model.

    Args:
        text_type: model type of the language model, by default the wrapper's own default.
        text: keys of its configuration.
        options: keys of the wrapper's configuration.
    """
    kind = CONFIG_MAPPING[model_type]
    default = kind()
    parts = {"text_config": TEXT | {"model_type": text_type or default.text_config.model_type} | (text or {})}
    for name in ("vision_config", "audio_config"):
        if other := getattr(default, name, None):
            known = {key: value for key, value in OTHER.items() if hasattr(other, key)}
            parts[name] = known | {"model_type": other.model_type}
    torch.manual_seed(0)
    name = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[model_type]
    model: PreTrainedModel = getattr(transformers, str(name))(kind(**parts | options)).eval()
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def rewrite(folder: Path, change: Any) -> None:
    """Change the tensors of a folder, a dictionary by name, in place."""
    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rename(tensors: dict[str, Tensor]) -> None:
    """Write a layout's tensors in the other one."""
    for name in list(tensors):
        if name.startswith(SOUND):
            tensors[OLD + name.removeprefix(SOUND)] = tensors.pop(name)
        elif name.startswith(OLD):
            tensors[NEW + name.removeprefix(OLD)] = tensors.pop(name)
        elif name.startswith(NEW):
            tensors[OLD + name.removeprefix(NEW)] = tensors.pop(name)
        elif name == "language_model.lm_head.weight":
            tensors["lm_head.weight"] = tensors.pop(name)
        elif name == "lm_head.weight":
            tensors["language_model.lm_head.weight"] = tensors.pop(name)


def configure(folder: Path, change: Any) -> None:
    """Change config.json, a dictionary, in place."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
