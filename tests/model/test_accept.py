"""Which bases are refused, each kind by a tiny random one, and which are not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from prealign_cpt.model.load import (
    ROOM,
    check_head,
    check_isolation,
    check_structure,
    check_tokenizer,
    load_whole,
    reading_device,
)
from prealign_cpt.run.errors import RecipeError
from tests.conftest import make_model

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def tiny(family: str, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SMALL | options)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()


def saved(family: str, folder: Path, **options: Any) -> Path:
    """The configuration alone."""
    getattr(transformers, f"{family}Config")(**SMALL | options).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Llama", {}),
        ("Qwen3", {"head_dim": 8}),
        ("Gemma3Text", {"head_dim": 8}),
        ("Olmo2", {}),
        ("Cohere", {"logit_scale": 1.0}),
    ],
)
def test_dense_decoders_pass(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    check_structure(saved(family, tmp_path, **options))
    model = tiny(family, **options)
    check_head(model)
    check_isolation(model)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("GPT2", {}, "GPT2LMHeadModel keeps its blocks elsewhere"),
        ("Falcon", {}, "FalconForCausalLM keeps its blocks elsewhere"),
        ("OPT", {}, "OPTForCausalLM keeps its blocks elsewhere"),
        ("Bloom", {}, "BloomForCausalLM keeps its blocks elsewhere"),
        ("Mpt", {}, "MptForCausalLM keeps its blocks elsewhere"),
        ("GPTJ", {"rotary_dim": 4}, "GPTJForCausalLM keeps its blocks elsewhere"),
        ("Mixtral", {}, "MixtralForCausalLM is a mixture of experts"),
        ("Qwen3Moe", {}, "Qwen3MoeForCausalLM is a mixture of experts"),
        ("GptOss", {}, "GptOssForCausalLM is a mixture of experts"),
        (
            "Mamba2",
            {"num_heads": 8, "head_dim": 8, "n_groups": 1},
            "cannot build it .Mamba2ForCausalLM does not",
        ),
        ("GraniteMoe", {}, "GraniteMoeForCausalLM is a mixture of experts"),
        ("Phi", {}, "the head of PhiForCausalLM has a bias"),
        ("Gemma2", {}, "final_logit_softcapping = 30.0"),
        ("Granite", {"logits_scaling": 8.0}, "logits_scaling = 8.0"),
        ("Cohere", {}, "logit_scale = 0.0625"),
    ],
)
def test_refused_by_structure(family: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"base.model: .*{message}.*; choose a dense"):
        check_structure(saved(family, tmp_path, **options))


def test_unknown_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "kimi_next", "architectures": ["KimiForCausalLM"]}))
    with pytest.raises(RecipeError, match="transformers cannot build it"):
        check_structure(tmp_path)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}),
        ("RecurrentGemma", {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16, "head_dim": 8}),
    ],
)
def test_state_that_crosses_documents(family: str, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="carries its state from one document of a packed row into the next"):
        check_isolation(tiny(family, **options))


def test_a_tokenizer_that_transformers_builds_otherwise(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A GPT2Tokenizer takes GPT-2's pre-tokenizer whatever tokenizer.json says."""
    tokenizer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"String": "e"}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    check_tokenizer(tmp_path, AutoTokenizer.from_pretrained(tmp_path))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises(
        RecipeError, match='loads it as GPT2Tokenizer; put "tokenizer_class": "PreTrainedTokenizerFast"'
    ):
        check_tokenizer(tmp_path, AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    "model",
    [
        tiny("Gemma2", head_dim=8, final_logit_softcapping=1.0),
        tiny("Granite", logits_scaling=8.0),
    ],
    ids=["soft cap", "factor"],
)
def test_a_head_that_does_more_than_multiply_is_refused(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=f"base.model: {type(model).__name__} does more to its logits"):
        load_whole(tmp_path)


def test_a_head_with_a_bias_is_refused_and_one_without_is_not() -> None:
    model = tiny("Phi")
    with torch.no_grad():
        model.lm_head.bias.zero_()
        check_head(model)
        model.lm_head.bias[3] = 2.0
        with pytest.raises(RecipeError, match="PhiForCausalLM does more"):
            check_head(model)
    for tied in (True, False):
        check_head(make_model(320, tied).bfloat16())
    check_head(tiny("Gemma2", head_dim=8, final_logit_softcapping=None))


def test_a_gpu_that_is_too_small_is_not_read_with(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = sum(p.numel() for p in load_whole(base_folder).parameters())
    for spare, expected in ((0, "cuda"), (-1, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=2 * numbers + ROOM + spare: (free, free))
        assert reading_device(base_folder, torch.bfloat16, torch.device("cuda")).type == expected
    assert "the GPU has 3 GB free: it is read with on the CPU" in capsys.readouterr().out
    assert reading_device(base_folder, torch.bfloat16, torch.device("cpu")).type == "cpu"
