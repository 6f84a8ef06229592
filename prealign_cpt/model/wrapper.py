"""A multimodal model's folder in, the ordinary folder of the language model inside it out.

    config.json ─► text_config ─► its causal class, without weights ─► what any base is checked for
    safetensors ─► the tensors of that class under its names, bit for bit; towers and projectors stay behind
    tokenizer, chat template, generation_config.json, licences, README.md ─► copied

Given text alone the wrapper computes the same: tests/model/test_wrapper.py compares the logits.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from prealign_cpt.model.load import REMEDY, check_structure, check_tokenizer
from prealign_cpt.model.tensors import INDEX, Tensors, write_weights
from prealign_cpt.run.errors import DataError, RecipeError, StorageError
from prealign_cpt.run.folder import say

CONVERSION = 1
"""Goes up when the same source would become another folder."""

LAYOUTS = {
    "language_model.model.model.": "model.",  # what transformers 5 writes for models of sound
    "language_model.": "",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
}
"""How names of the language model's tensors begin in a wrapper, and in its own class. The second is the layout of
transformers 4, which 5 goes on to write for most; a head may also stand under its own name."""

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"

OTHERWISE = ("config.json", INDEX, "*processor_config.json", "chat_template.json")
"""Files that are not copied: written anew, or about images and sound."""


def convert(source: Path, out: Path, copied: Iterable[str]) -> str:
    """Fill `out` with the language model of the wrapper in `source`; what was taken and what not, in a line.

    Args:
        copied: patterns of the files beside the weights.

    Raises:
        RecipeError: transformers has no class for the language model alone, or such a model is refused anyway.
        DataError: the tensors are not those of that class.
        StorageError: the disk has not the room.
    """
    model, wrapper = _without_weights(source)
    model.save_pretrained(out, state_dict={})
    try:
        check_structure(out)
    except RecipeError as error:
        raise RecipeError(f"{error} ({source}: of {wrapper} only the language model would be taken)") from error
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    check_tokenizer(source, tokenizer)
    with Tensors(source) as tensors:
        names = {_own(name): name for name in tensors.places if _own(name)}
        tied = model.config.tie_word_embeddings and {HEAD, TABLE} <= set(names)
        if tied and not _equal(tensors, names[HEAD], names[TABLE]):
            model = _built(model.config, tied=False)  # as transformers does it, which believes the file
        _compare(source, model, {name: tensors.shape(there) for name, there in names.items()})
        kept = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if name in names}
        for name, tensor in kept.items():
            tensor.data = tensor.data.to(tensors.rows(names[name], 0, 0).dtype)
        size = sum(tensor.nbytes for tensor in kept.values())
        free = shutil.disk_usage(out).free
        say(f"{source} is a {wrapper}: its language model, {size / 1e9:.1f} GB, goes to {out.parent}")
        if size > free:
            raise StorageError(
                f"{out.parent}: {free / 1e9:.1f} GB free, {size / 1e9:.1f} needed; or set PREALIGN_CACHE"
            )
        write_weights(model, lambda name: tensors.read(names[name]), out)
        left_out = sorted({_part(name) for name in tensors.places if not _own(name)})
    for path in sorted({path for pattern in copied for path in source.glob(pattern)}):
        if path.is_file() and not any(path.match(pattern) for pattern in OTHERWISE):
            shutil.copyfile(path, out / path.name)
    template = source / "chat_template.json"
    if template.is_file() and not tokenizer.chat_template:
        text = json.loads(template.read_text(encoding="utf-8"))["chat_template"]
        (out / "chat_template.jinja").write_text(text, encoding="utf-8")
    return f"the language model of a {wrapper}, as {type(model).__name__}; left out: {', '.join(left_out) or 'nothing'}"


def _without_weights(source: Path) -> tuple[PreTrainedModel, str]:
    """The language model on the meta device, and the name of the wrapper's class."""
    told = json.loads((source / "config.json").read_text(encoding="utf-8"))
    wrapper = str((told.get("architectures") or [told.get("model_type")])[0])
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True)
    except (ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise RecipeError(f"base.model: {source}: transformers does not know it ({reason}); {REMEDY}") from error
    text: PreTrainedConfig = config.text_config
    if not MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), type).__name__.endswith("ForCausalLM"):
        raise RecipeError(
            f"base.model: {source}: {wrapper} is a multimodal model, and transformers has no class for its language "
            f"model alone ({text.model_type}); {REMEDY}"
        )
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if told["text_config"].get(key) is None and told.get(key) is not None:
            setattr(text, key, told[key])
    return _built(text, tied=bool(getattr(config, "tie_word_embeddings", False))), wrapper


def _built(config: PreTrainedConfig, tied: bool) -> PreTrainedModel:
    config.tie_word_embeddings = tied
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def _own(name: str) -> str:
    """A tensor's name in the language model's own class; empty if it belongs to another part."""
    for begin, own in LAYOUTS.items():
        if name.startswith(begin):
            return own + name.removeprefix(begin)
    return name if name == HEAD else ""


def _part(name: str) -> str:
    """The part of a wrapper that a tensor belongs to."""
    return name.removeprefix("model.").partition(".")[0]


def _equal(tensors: Tensors, one: str, other: str) -> bool:
    return tensors.shape(one) == tensors.shape(other) and torch.equal(tensors.read(one), tensors.read(other))


def _compare(source: Path, model: PreTrainedModel, found: dict[str, tuple[int, ...]]) -> None:
    """Every tensor of the model is there with its shape, and there is no other."""
    wanted: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ties = model.all_tied_weights_keys
    faults = {
        "missing": [name for name in wanted if name not in found and name not in ties],
        "unknown to it": [name for name in found if name not in wanted],
        "of another shape": [name for name, shape in found.items() if wanted.get(name, shape) != shape],
    }
    told = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})" for what, names in
            faults.items() if names]  # fmt: skip
    if told:
        raise DataError(
            f"{source}: its tensors are not those of {type(model).__name__}: {'; '.join(told)}; download it again, or "
            "save the language model alone with transformers"
        )
