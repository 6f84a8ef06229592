"""transformers 4.57 reads an export as transformers 5 does: ids, chats, ends, and the function itself.

It lives in an environment of its own: `python3.11 -m venv .venv4`, then there `pip install "transformers==4.57.6" torch
sentencepiece protobuf`. PREALIGN_TRANSFORMERS4 names another Python.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GemmaTokenizer, LlamaTokenizer, Qwen2Tokenizer

from prealign_cpt.export.folder import save_tokenizer, set_ends, with_old_names
from prealign_cpt.vocab.grow import grow_tokenizer
from tests.vocab.conftest import ENGLISH, SPECIAL, TARGET, byte_level, sentence_piece

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("PREALIGN_TRANSFORMERS4", ROOT / ".venv4" / "bin" / "python"))
TEXTS = [*TARGET["german"], *TARGET["russian"], *TARGET["hindi"], *ENGLISH, " a  b\t\n\nc 123 <s> 漢字 🐕"]
CHAT = [{"role": "user", "content": "Größe?"}]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason=f"no transformers 4 at {PYTHON}: see the test file's first lines"),
]


def _read(python: Path | str, folder: Path) -> dict[str, Any]:
    question = {"folder": str(folder), "texts": TEXTS, "chat": CHAT, "score": 4}
    words = [str(python), str(ROOT / "benchmarks" / "consumers_reader.py")]
    done = subprocess.run(words, input=json.dumps(question), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def _base(kind: str, folder: Path) -> Path:
    """A base of a kind, with the tokenizer class that it has on the Hub."""
    if kind in ("llama", "gemma3_text"):
        sentence_piece(folder)
        names = {"llama": LlamaTokenizer, "gemma3_text": GemmaTokenizer}
        tokenizer = names[kind].from_pretrained(folder)
    else:
        byte_level(folder, llama3=kind == "llama3")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if kind == "qwen2":
            tokenizer = Qwen2Tokenizer.from_pretrained(folder, eos_token=SPECIAL, pad_token=SPECIAL, unk_token=None)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama3", "gpt2", "qwen2", "llama", "gemma3_text"])
def test_both_read_the_same(kind: str, tmp_path: Path) -> None:
    base = _base(kind, tmp_path / "base")
    if kind == "qwen2":  # transformers 5 goes by the model's type here, and cuts as it always did
        AutoConfig.for_model(kind).save_pretrained(base)
    grown, out = tmp_path / "grown", tmp_path / "out"
    grow_tokenizer(base, TARGET["german"] + TARGET["russian"] + TARGET["hindi"], ENGLISH, 60, grown)
    tokenizer = AutoTokenizer.from_pretrained(grown)
    start = SPECIAL if kind in ("llama3", "gpt2", "qwen2") else "</s>"
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    chat = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    config = AutoConfig.for_model(
        {"llama3": "llama", "gpt2": "llama"}.get(kind, kind), vocab_size=len(tokenizer), hidden_size=32,
        intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        initializer_range=0.2, eos_token_id=2, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    if kind != "gemma3_text":  # that has a base of its own for each kind of layer
        config.rope_parameters["rope_theta"] = 500.0
    model = AutoModelForCausalLM.from_config(config)
    number = tokenizer.convert_tokens_to_ids(start)
    set_ends(model, number, None)
    model.save_pretrained(out)
    content = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(with_old_names(content)))
    save_tokenizer(tokenizer, start, grown, out)

    old, new = _read(PYTHON, out), _read(sys.executable, out)
    assert old["transformers"].startswith("4.") and new["transformers"].startswith("5.")
    assert old["ids"] == new["ids"] == ids
    assert old["with_special"] == new["with_special"] == [[number, *one] for one in ids]
    assert old["chat"] == new["chat"] == chat
    assert old["ends"] == new["ends"]
    assert old["nats"] == pytest.approx(new["nats"], rel=1e-4)
