"""A Llama in a GGUF file with a byte-level tokenizer becomes a Hugging Face folder.

    tensors   --dequantised, query and key rows put in order-->  model.safetensors (bfloat16), config.json
    metadata  --tokens, merges, pre-tokenizer by its name---->   tokenizer.json, chat template

GGUF holds no pre-tokenizer, only the name under which llama.cpp has one built in. A name that is not known here is
refused: with another pre-tokenizer the model would read other tokens than it was trained on, and nothing would fail.
"""

from pathlib import Path
from typing import Any

from prealign_cpt.run.errors import DataError

CONVERSION = 2
"""Goes up whenever the files that come out change, so that folders in the cache are made anew."""

LLAMA_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}

NORMAL, CONTROL = 1, 3
"""Token types of GGUF: text, and what stands for itself in no text."""


def convert(gguf: Path, folder: Path) -> None:
    """Save model and tokenizer of `gguf` into `folder`: bfloat16 safetensors, configuration, tokenizer, chat template.

    The weights are read with `gguf` itself: transformers reads GGUF only beside accelerate, and leaves a model that
    claims to be quantised.

    Raises:
        DataError: the pre-tokenizer's name is not known.
    """
    # Here and not above: a run that only checks a folder need not wait for torch.
    import torch
    from gguf import GGUFReader, dequantize
    from transformers import AutoConfig, LlamaForCausalLM

    reader = GGUFReader(gguf)
    _tokenizer({name: field.contents() for name, field in reader.fields.items()}, gguf).save_pretrained(folder)
    config: Any = AutoConfig.from_pretrained(str(gguf.parent), gguf_file=gguf.name, local_files_only=True)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            # GGUF interleaves the two halves that rotary positions turn; transformers keeps them apart.
            values = values.view(heads[kind], -1, 2, values.shape[-1]).transpose(1, 2).reshape(values.shape)
        weights[_hf_name(tensor.name)] = values.to(torch.bfloat16)
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    model.config.architectures = ["LlamaForCausalLM"]
    model.save_pretrained(folder)


def _tokenizer(metadata: dict[str, Any], gguf: Path) -> Any:
    """The tokenizer of the metadata, as a `PreTrainedTokenizerFast`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known = {"smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])}
    name = metadata["tokenizer.ggml.pre"]
    if name not in known:
        raise DataError(f"{gguf}: pre-tokenizer {name!r} is not known, only {', '.join(known)}; use safetensors")
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert metadata["tokenizer.ggml.model"] == "gpt2" and set(types) <= {NORMAL, CONTROL}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer, backend.decoder = known[name], decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    ids = {role: f"tokenizer.ggml.{key}_token_id" for role, key in ROLES.items()}
    special = {f"{role}_token": tokens[metadata[key]] for role, key in ids.items() if key in metadata}
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = metadata.get("tokenizer.chat_template")
    return tokenizer


ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""The special tokens by which transformers knows them, and GGUF."""


def _hf_name(name: str) -> str:
    """The transformers name of a GGUF tensor: `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    if name.startswith("blk."):
        _, layer, kind, suffix = name.split(".")
        return f"model.layers.{layer}.{LLAMA_NAMES[kind]}.{suffix}"
    kind, suffix = name.split(".")
    return f"{LLAMA_NAMES[kind]}.{suffix}"
