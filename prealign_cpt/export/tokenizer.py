"""The exported tokenizer, as every loader reads it: transformers 4 and 5, vLLM, lm_eval, llama.cpp's converter.

    trained tokenizer --save_tokenizer--> tokenizer.json, tokenizer_config.json, chat_template.jinja (, tokenizer.model)

Ids of plain text stay as they were. What changes is what stands around a text: where special tokens are asked for, as
clients of a server do without knowing, it begins with the start token, like all text in training and evaluation.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.vocab.grow import MODEL

OF_OUR_LOADING = ("is_local", "local_files_only", "name_or_path")
"""Keys that transformers writes about how the tokenizer was read here."""


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, start_token: str, vocab: Path, out: Path) -> None:
    """Fill `out` with the tokenizer; `start_token` becomes its `bos_token` and stands before a text.

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


def _rewrite(path: Path, change: Any) -> None:
    content = change(json.loads(path.read_text(encoding="utf-8")))
    atomic_write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
