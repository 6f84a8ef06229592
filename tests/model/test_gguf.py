"""The conversion of a GGUF file: the same weights, the same tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.model.base import check_base
from prealign_cpt.model.gguf import LLAMA_NAMES, convert
from prealign_cpt.run.errors import DataError
from tests.conftest import make_model


def test_conversion_from_gguf(tmp_path: Path) -> None:
    """A tiny Llama, written as GGUF in the way llama.cpp does, comes back with the same weights and tokenizer."""
    original = make_model(260).to(torch.bfloat16)
    (tmp_path / "out").mkdir()
    write_gguf(original, tmp_path / "tiny.gguf", "smollm")
    convert(tmp_path / "tiny.gguf", tmp_path / "out")
    check_base(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = original.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, values in loaded.state_dict().items():
        assert values.dtype == torch.bfloat16 and torch.equal(values, expected[name]), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer("Größe, Привет").input_ids) == "Größe, Привет"
    assert tokenizer.chat_template == "{{ messages }}" and tokenizer.eos_token == "<|end|>"


def test_pre_tokenizer_by_name(tmp_path: Path) -> None:
    """Digits stand alone although the merges know a pair of them; a name that is not known is refused."""
    model = make_model(260).to(torch.bfloat16)
    (tmp_path / "out").mkdir()
    write_gguf(model, tmp_path / "tiny.gguf", "smollm")
    convert(tmp_path / "tiny.gguf", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("er 12½") == ["er", "Ġ", "1", "2", "Â", "½"]
    write_gguf(model, tmp_path / "other.gguf", "tekken")
    with pytest.raises(DataError, match="pre-tokenizer 'tekken' is not known, only smollm"):
        convert(tmp_path / "other.gguf", tmp_path / "out")


def write_gguf(model: Any, path: Path, pre_tokenizer: str) -> None:
    """Write a Llama with a byte-level tokenizer, its query and key rows interleaved as GGUF wants them."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(["<|start|>", "<|end|>", *sorted(ByteLevel.alphabet()), "er", "12"])
    writer.add_token_types([3, 3] + [1] * 258)
    writer.add_token_merges(["e r", "1 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages }}")
    kinds = {name: kind for kind, name in LLAMA_NAMES.items()}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        stem, suffix = name.rsplit(".", 1)
        values = tensor.float()
        if stem.startswith("model.layers."):
            _, _, layer, rest = stem.split(".", 3)
            kind = kinds[rest]
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(kind)
            if heads:
                values = values.view(heads, 2, -1, values.shape[-1]).transpose(1, 2).reshape(values.shape)
            target = f"blk.{layer}.{kind}.{suffix}"
        else:
            target = f"{kinds[stem]}.{suffix}"
        writer.add_tensor(target, values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
