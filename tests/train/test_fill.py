"""A sharded model holds what transformers reads from the same folder, and nobody reads more than their own rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from prealign_cpt.model.load import load_whole
from prealign_cpt.model.tensors import INDEX, SINGLE, Tensors
from prealign_cpt.model.world import process_group
from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.train.shard import sharded
from tests.conftest import run_ranks
from tests.train.conftest import VOCAB, full, weights

SMALL: dict[str, Any] = {
    **{"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
}
LONG = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: dict[str, tuple[str, dict[str, Any], torch.dtype]] = {
    "llama": ("llama", {"tie_word_embeddings": False}, torch.bfloat16),
    "llama 3": (
        "llama",
        {"tie_word_embeddings": True, "rope_parameters": LONG | {"original_max_position_embeddings": 64}},
        torch.float32,
    ),
    "qwen 3": ("qwen3", {"tie_word_embeddings": True}, torch.float16),
    "gemma 3": (
        "gemma3_text",
        {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        torch.bfloat16,
    ),
}


def _write(folder: Path, name: str, shard_size: str = "50GB") -> Path:
    model_type, options, dtype = MODELS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SMALL, **options))
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def _filled(rank: int, size: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    read = Tensors.rows
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        for path in sorted(folder.iterdir()):
            rows: list[int] = []

            def counted(tensors: Tensors, name: str, first: int, count: int, rows: list[int] = rows) -> torch.Tensor:
                rows.append(count)
                return read(tensors, name, first, count)

            Tensors.rows = counted  # type: ignore[method-assign]
            module = sharded(path, world, "fp32")
            found[path.name] = {
                "weights": weights(module),
                "buffers": {name: full(buffer) for name, buffer in module.named_buffers()},
                "tied": module.model.lm_head.weight is module.model.model.embed_tokens.weight,
                "rows": rows,
            }
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        _write(folder / name, name)
        _write(folder / f"{name} in parts", name, shard_size="8KB")
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return run_ranks(2, _filled, folder)


@pytest.mark.parametrize("name", [one for name in MODELS for one in (name, f"{name} in parts")])
def test_two_ranks_hold_what_transformers_reads(folder: Path, ranks: list[dict[str, Any]], name: str) -> None:
    model = load_whole(folder / name)
    assert (folder / name / INDEX).is_file() == name.endswith("in parts")
    for found in (rank[name] for rank in ranks):
        for kind, expected in (("weights", model.named_parameters()), ("buffers", model.named_buffers())):
            expected = {f"model.{key}": full(value) for key, value in expected}
            assert found[kind].keys() == expected.keys() and expected
            for key, value in expected.items():
                assert found[kind][key].dtype == value.dtype
                np.testing.assert_array_equal(found[kind][key], value, err_msg=key)
        assert found["tied"] == (model.lm_head.weight is model.model.embed_tokens.weight)
        whole = sum(len(parameter) for parameter in model.parameters())
        assert sum(found["rows"]) == pytest.approx(whole / 2, abs=2), "it read rows of other ranks"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return _write(tmp_path / "model", "llama", shard_size="8KB")


def _rewrite(folder: Path, change: Any) -> None:
    """One file in place of the parts, with other tensors."""
    with Tensors(folder) as tensors:
        content = {name: tensors.read(name) for name in tensors.places}
    for path in folder.glob("model*"):
        path.unlink()
    save_file(change(content), folder / SINGLE, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda all_of_it: {f"base.{k}": v for k, v in all_of_it.items()}, "model.embed_tokens.weight is missing"),
        (lambda all_of_it: all_of_it | {"vision.weight": torch.zeros(3)}, "vision.weight is not expected"),
        (lambda all_of_it: all_of_it | {"model.norm.weight": torch.zeros(31)}, r"model.norm.weight is \(31,\)"),
    ],
)
def test_tensors_of_another_model_are_refused_by_name(own: Path, change: Any, told: str) -> None:
    _rewrite(own, change)
    with process_group(torch.device("cpu"), timeout_minutes=1) as world, pytest.raises(DataError, match=told):
        sharded(own, world, "fp32")


def test_a_folder_without_its_files_says_so(own: Path) -> None:
    part = next(own.glob("model-00001*"))
    assert load_file(part)
    part.unlink()
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        with pytest.raises(MissingInputError, match="model-00001-of"):
            sharded(own, world, "fp32")
        (own / INDEX).write_text(json.dumps({}))
        with pytest.raises(DataError, match="not an index"):
            sharded(own, world, "fp32")
        (own / INDEX).unlink()
        with pytest.raises(MissingInputError, match="neither"):
            sharded(own, world, "fp32")
