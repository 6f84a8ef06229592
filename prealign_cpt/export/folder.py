"""A checkpoint becomes an ordinary Hugging Face folder, proven equal to the trained model.

train/step-… + align/ (config, tokenizer) --> export/: safetensors, configurations, tokenizer, README.md, licence

Every loader reads it: transformers 4 and 5, vLLM, lm_eval, llama.cpp's converter.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from prealign_cpt.export import gate
from prealign_cpt.export.card import model_card
from prealign_cpt.export.trained import Trained
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tensors import write_weights
from prealign_cpt.model.tokens import end_token_id, start_token_id
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import NumericError
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.train.checkpoint import step_of
from prealign_cpt.vocab.grow import MODEL

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files of the base that go where its weights go."""

OF_OUR_LOADING = ("is_local", "local_files_only", "name_or_path")
"""Keys that transformers writes about how the tokenizer was read here."""


def build_export(
    recipe: Recipe,
    align: Path,
    step_folder: Path,
    probe: gate.Probe,
    out: Path,
    accept: bool = False,
    first_new: int | None = None,
    rejected: Path | None = None,
) -> None:
    """Fill `out` with the model to serve, readable by whom the umask lets read.

    Args:
        align: the stage folder that training started from; the run's other stages lie beside it.
        step_folder: a verified checkpoint.
        probe: what the trainer gave for held-out text.
        accept: publish the folder although its function is not the trainer's within rounding.
        first_new: id of the first new token; None where there are none.
        rejected: where a folder is kept that does not compute what the trainer did; None: `RUN/export.rejected`.

    Raises:
        DataError: the folder does not hold the trained weights; nothing is exported.
        NumericError: the reloaded folder does not compute what the trainer did.
    """
    base = resolve_base(recipe.base.model)
    trained = Trained(recipe, without_weights(align), align, step_folder, first_new)
    tokenizer = AutoTokenizer.from_pretrained(align, local_files_only=True)
    write_folder(recipe, align, trained.read, tokenizer, base, out)
    comparison = gate.compare(recipe, out, probe)
    gate.write(out, comparison, accept)
    atomic_write(out / "README.md", model_card(recipe, comparison.figures, align.parent, base, step_of(step_folder)))
    let_read(out)
    judge(comparison, out, rejected or recipe.run / "export.rejected", accept)


def write_folder(
    recipe: Recipe,
    source: Path,
    read: Callable[[str], Tensor],
    tokenizer: PreTrainedTokenizerFast,
    base: Path,
    out: Path,
    ends: Sequence[int] = (),
) -> None:
    """Fill `out` with weights, configurations, tokenizer and licences, and compare the weights with what was to be
    written.

    Args:
        source: the run's folder with the configurations.
        read: a tensor of the model by its name.
        tokenizer: changed in place.
        base: folder of the base model, whose licence holds here too.
        ends: further tokens at which generation stops.

    Raises:
        DataError: the folder does not hold the tensors that `read` gives.
    """
    model, dtype = without_weights(source), gate.EXACT[recipe.train.precision][0]
    set_ends(model, start_token_id(tokenizer, recipe), end_token_id(tokenizer, recipe), ends)
    names = write_weights(model.to(dtype), read, out)
    _rewrite(out / "config.json", with_old_names)
    save_tokenizer(tokenizer, recipe.base.start_token, source.parent / "vocab", out)
    for path in sorted(path for pattern in LICENCES for path in base.glob(pattern)):
        shutil.copyfile(path, out / path.name)
    gate.check_weights(out, names, read, dtype)


def judge(comparison: gate.Comparison, out: Path, rejected: Path, accept: bool) -> None:
    """Move a folder whose function is not the trainer's aside, to `rejected`; what lay there goes in any case.

    Raises:
        NumericError: it was moved.
    """
    if rejected.exists():
        shutil.rmtree(rejected)
    if comparison.faults and not accept:
        os.rename(out, rejected)
        raise NumericError(gate.rejection(rejected, comparison))


def without_weights(align: Path) -> PreTrainedModel:
    """The model of a folder with its configurations, on the meta device."""
    config = AutoConfig.from_pretrained(align, local_files_only=True)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if (align / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(align, local_files_only=True)
    return model


def let_read(folder: Path) -> None:
    """Give all files the mode that a new file has: safetensors makes its own readable by their owner alone."""
    mask = os.umask(0o022)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    content = change(json.loads(path.read_text(encoding="utf-8")))
    atomic_write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def set_ends(model: PreTrainedModel, start_id: int, end_id: int | None, more: Sequence[int] = ()) -> None:
    """Let generation stop at every token that ends a document: the base's own, the one that was learned, and the start
    token, with which the next document would begin.

    Args:
        model: `config` and `generation_config` are changed in place.
        start_id: becomes `bos_token_id`.
        end_id: None where the start token of the next document is the end of the last.
        more: further ends.
    """
    ends: dict[int, None] = {}
    for ids in (model.generation_config.eos_token_id, model.config.eos_token_id, end_id, start_id, list(more)):
        ends |= dict.fromkeys(ids if isinstance(ids, list) else [] if ids is None else [ids])
    generation = model.generation_config
    generation.eos_token_id = list(ends) if len(ends) > 1 else start_id
    generation.bos_token_id = model.config.bos_token_id = start_id
    # Scores and samples must not depend on what the base's authors liked.
    generation.do_sample = False
    for name in ("temperature", "top_p", "top_k"):
        setattr(generation, name, None)
    # Otherwise transformers may make it anew from config.json, which knows one end only.
    generation._from_model_config = False


def with_old_names(config: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json with RoPE where transformers 4 looks too; transformers 5 reads it as before.

    transformers 5 keeps all about rotary positions in `rope_parameters`. Older readers (transformers 4, mlx-lm) look
    for `rope_theta` and `rope_scaling` beside it, and take 10,000 without a word where there is none.
    """
    rope = config.get("rope_parameters")
    if not rope:
        return config
    whole, sliding = rope.get("full_attention", rope), rope.get("sliding_attention")
    old = {"rope_theta": whole["rope_theta"]}
    if whole.get("rope_type", "default") != "default":
        old["rope_scaling"] = {key: value for key, value in whole.items() if key != "rope_theta"}
    if sliding and sliding["rope_theta"] != whole["rope_theta"]:
        old["rope_local_base_freq"] = sliding["rope_theta"]  # Gemma 3
    if "partial_rotary_factor" in whole:
        old["partial_rotary_factor"] = whole["partial_rotary_factor"]
    if config["model_type"] == "gpt_neox":
        old |= {"rotary_emb_base": whole["rope_theta"], "rotary_pct": whole["partial_rotary_factor"]}
    return {**config, **old}


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, start_token: str, vocab: Path, out: Path) -> None:
    """Fill `out` with the tokenizer; `start_token` becomes its `bos_token` and stands before a text.

    Ids of plain text stay as they were. What changes is what stands around a text: where special tokens are asked for,
    as clients of a server do without knowing, it begins with the start token, like all text in training and evaluation.
    Chats are rendered to the ids that they had: a template that writes the old `bos_token` goes on to write that one.

    Args:
        tokenizer: changed in place.
        vocab: folder with the grown `tokenizer.model` of a SentencePiece base; it need not be there.
    """
    old = tokenizer.bos_token
    if old != start_token:
        tokenizer.chat_template = _with_bos(tokenizer.chat_template, old or "")
        tokenizer.bos_token = start_token
    tokenizer.save_pretrained(out)
    start = {start_token: tokenizer.convert_tokens_to_ids(start_token)}
    _rewrite(out / "tokenizer.json", lambda content: content | {"post_processor": _before(start, content)})
    _rewrite(out / "tokenizer_config.json", _for_all_readers)
    if (vocab / MODEL).is_file():
        shutil.copyfile(vocab / MODEL, out / MODEL)


def _with_bos(template: Any, old: str) -> Any:
    """A chat template, or several by name, in which `bos_token` is the old one."""
    if isinstance(template, dict):
        return {name: _with_bos(text, old) for name, text in template.items()}
    if not template or "bos_token" not in template:
        return template
    # transformers trims the line end behind a block, so the template itself still begins a line.
    return f"{{% set bos_token = {json.dumps(old, ensure_ascii=False)} %}}\n{template}"


def _before(start: dict[str, int], content: dict[str, Any]) -> dict[str, Any]:
    """The post-processor of tokenizer.json that puts the token of `start` before a text and leaves ids as they are."""
    ((token, number),) = start.items()
    first, second = (
        [{"SpecialToken": {"id": token, "type_id": at}}, {"Sequence": {"id": name, "type_id": at}}]
        for at, name in enumerate("AB")
    )
    template = {
        "type": "TemplateProcessing",
        "single": first,
        "pair": first + second,
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
    old = content["post_processor"] or {}
    offsets = [stage for stage in old.get("processors", [old]) if stage.get("type") == "ByteLevel"]
    return {"type": "Sequence", "processors": [*offsets, template]} if offsets else template


def _for_all_readers(config: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json without what only this machine or only transformers 5 understands."""
    config = {key: value for key, value in config.items() if key not in OF_OUR_LOADING}
    # transformers 5 reads both names of each of these, transformers 4 the older one.
    if config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    # What tokenizer.json says already; classes of transformers 4 such as LlamaTokenizerFast read it here.
    return config | {"add_bos_token": True}
