"""The exported tokenizer: ids of text and chats stay, the start token stands in front, every loader knows the class."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prealign_cpt.export.folder import save_tokenizer
from tests.vocab.conftest import SPECIAL, byte_level, sentence_piece

TEXTS = ["The dog, 22 cats", " Größe, naïve", "Не знаю\n\n漢字 🐕", "a  b\tc", "<|endoftext|> and </s>"]
CHAT = [{"role": "user", "content": "Say: Größe!"}, {"role": "assistant", "content": "Größe!"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        "bytelevel": byte_level(root / "bytelevel", llama3=False),
        "llama3": byte_level(root / "llama3", llama3=True),
        "spm": sentence_piece(root / "spm"),
    }


def _plain(tokenizer: Any) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


def _export(tokenizer: Any, start: str, out: Path, vocab: Path = Path("nowhere")) -> Any:
    out.mkdir()
    save_tokenizer(tokenizer, start, vocab, out)
    return AutoTokenizer.from_pretrained(out, local_files_only=True)


@pytest.mark.parametrize(
    ("kind", "start"), [("bytelevel", SPECIAL), ("llama3", SPECIAL), ("spm", "<s>"), ("spm", "</s>")]
)
def test_a_text_begins_with_the_start_token_and_keeps_its_ids(
    folders: dict[str, Path], kind: str, start: str, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    before, eos = _plain(tokenizer), tokenizer.eos_token
    texts = [tokenizer.decode(ids) for ids in before]
    exported = _export(tokenizer, start, tmp_path / "out")
    number = exported.convert_tokens_to_ids(start)
    assert _plain(exported) == before
    assert [exported.encode(text) for text in TEXTS] == [[number, *ids] for ids in before]
    assert exported(TEXTS[0], TEXTS[1])["input_ids"] == [number, *before[0], number, *before[1]]
    assert (exported.bos_token, exported.eos_token) == (start, eos)
    assert [exported.decode(ids) for ids in before] == texts


def test_offsets_do_not_count_the_space_in_front(folders: dict[str, Path], tmp_path: Path) -> None:
    """What the byte-level post-processor does in Llama 3; a template alone would lose it."""
    tokenizer = AutoTokenizer.from_pretrained(folders["llama3"])
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(content))
    )
    before = tokenizer("a cat", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    exported = _export(tokenizer, SPECIAL, tmp_path / "out")
    assert exported("a cat", return_offsets_mapping=True)["offset_mapping"] == [(0, 0), *before]


@pytest.mark.parametrize("start", ["<s>", "</s>"])
@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}",
        "\n  {% if true %}{{ bos_token }}{{ messages[0].content }}{% endif %}\n",
        "{% macro turn(m) %}{{ bos_token }}{{ m.content }}{% endmacro %}{{ turn(messages[0]) }}{{ turn(messages[1]) }}",
        "{{ messages[0].content }}",
    ],
)
def test_chats_keep_their_ids(folders: dict[str, Path], template: str, start: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["spm"])
    tokenizer.chat_template = template
    before = tokenizer.apply_chat_template(CHAT)["input_ids"]
    exported = _export(tokenizer, start, tmp_path / "out")
    assert exported.bos_token == start
    assert exported.apply_chat_template(CHAT)["input_ids"] == before
    if start == "<s>":
        assert exported.chat_template == template, "nothing to mend"


def test_a_chat_without_a_bos_token_keeps_its_ids(folders: dict[str, Path], tmp_path: Path) -> None:
    """Qwen names none, and its template may mention it all the same."""
    tokenizer = AutoTokenizer.from_pretrained(folders["bytelevel"])
    assert tokenizer.bos_token is None
    tokenizer.chat_template = {
        "default": "{{ bos_token }}{{ messages[0].content }}",
        "tools": "{% if bos_token %}x{% endif %}{{ messages[1].content }}",
    }
    before = [tokenizer.apply_chat_template(CHAT, chat_template=name)["input_ids"] for name in ("default", "tools")]
    exported = _export(tokenizer, SPECIAL, tmp_path / "out")
    after = [exported.apply_chat_template(CHAT, chat_template=name)["input_ids"] for name in ("default", "tools")]
    assert after == before


def test_the_files_say_nothing_about_this_machine_or_version(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["bytelevel"], local_files_only=True)
    tokenizer.add_special_tokens({"extra_special_tokens": [AddedToken("<tool>", special=True)]})
    out = tmp_path / "out"
    exported = _export(tokenizer, SPECIAL, out)
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert not {"local_files_only", "is_local", "name_or_path", "extra_special_tokens"} & set(config)
    assert str(folders["bytelevel"]) not in (out / "tokenizer_config.json").read_text()
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and config["add_bos_token"] is True
    assert "<tool>" in exported.all_special_tokens


def test_tokenizer_model_comes_along(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["spm"])
    _export(tokenizer, "<s>", tmp_path / "out", vocab=folders["spm"])
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == (folders["spm"] / "tokenizer.model").read_bytes()
