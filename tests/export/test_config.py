"""RoPE is read alike by its new and its old names, and generation stops where documents end."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, GenerationConfig, LlamaForCausalLM

from prealign_cpt.export.folder import set_ends, with_old_names
from tests.conftest import make_model

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
LONG |= {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 64}
BY_LAYER = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("kind", "rope", "old"),
    [
        ("llama", {"rope_type": "default", "rope_theta": 100000.0}, {"rope_theta": 100000.0}),
        ("llama", LLAMA3 | {"rope_theta": 500000.0}, {"rope_theta": 500000.0, "rope_scaling": LLAMA3}),
        ("qwen2", YARN | {"rope_theta": 1e6}, {"rope_theta": 1e6, "rope_scaling": YARN}),
        ("phi3", LONG, {"rope_theta": 1e4, "partial_rotary_factor": 0.5}),
        ("gemma3_text", BY_LAYER, {"rope_theta": 1e6, "rope_local_base_freq": 1e4,
                                   "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("gpt_neox", {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5},
         {"rotary_emb_base": 20000.0, "rotary_pct": 0.5}),
    ],
)  # fmt: skip
def test_rope_has_its_old_names_and_is_read_as_before(
    tmp_path: Path, kind: str, rope: dict[str, Any], old: dict[str, Any]
) -> None:
    config = AutoConfig.for_model(kind, rope_parameters=rope, **SMALL)
    written = with_old_names(config.to_dict())
    assert old.items() <= written.items()
    if rope.get("rope_type") == "default":
        assert "rope_scaling" not in written
    read = AutoConfig.for_model(**written)
    assert read.rope_parameters == config.rope_parameters
    assert AutoConfig.for_model(**with_old_names(read.to_dict())).rope_parameters == config.rope_parameters


def test_a_model_without_rope_is_left_alone() -> None:
    config = AutoConfig.for_model("gpt2").to_dict()
    assert with_old_names(config) == config


def _ends(of_generation: Any, of_config: Any, start: int, end: int | None) -> LlamaForCausalLM:
    model = make_model(40)
    model.config.eos_token_id = of_config
    model.generation_config = GenerationConfig(eos_token_id=of_generation, do_sample=True, temperature=0.6, top_p=0.9)
    set_ends(model, start, end)
    return model


@pytest.mark.parametrize(
    ("of_generation", "of_config", "start", "end", "wanted"),
    [
        (2, 2, 0, None, [2, 0]),  # SmolLM2: documents are parted by <|endoftext|>, the base's files name <|im_end|>
        ([7, 8], 7, 1, 7, [7, 8, 1]),  # Llama 3: start and end differ, chats end elsewhere
        (None, None, 0, None, 0),
        (None, 5, 1, 6, [5, 6, 1]),
        (None, None, 1, 2, [2, 1]),
    ],
)
def test_generation_stops_at_every_end(
    tmp_path: Path, of_generation: Any, of_config: Any, start: int, end: int | None, wanted: Any
) -> None:
    model = _ends(of_generation, of_config, start, end)
    model.save_pretrained(tmp_path)
    read = GenerationConfig.from_pretrained(tmp_path)
    assert read.eos_token_id == wanted and read.bos_token_id == start
    assert AutoConfig.from_pretrained(tmp_path).bos_token_id == start
    assert AutoConfig.from_pretrained(tmp_path).eos_token_id == of_config


def test_nothing_is_sampled_by_default(tmp_path: Path) -> None:
    model = _ends(2, 2, 0, None)
    model.save_pretrained(tmp_path)
    read = GenerationConfig.from_pretrained(tmp_path)
    assert not read.do_sample and read.temperature is None and read.top_p is None
    assert not json.loads((tmp_path / "generation_config.json").read_text()).get("_from_model_config")
