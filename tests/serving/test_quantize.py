"""The 8-bit copy of a folder: what is in it, and how near it is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from prealign_cpt.run.errors import DataError, StorageError
from prealign_cpt.run.manifest import verify
from prealign_cpt.serving.command import Options, command
from prealign_cpt.serving.folder import check_servable, model_digest
from prealign_cpt.serving.quantize import LINEAR, quantize


def test_a_copy(folder: Path, tmp_path: Path) -> None:
    found = quantize(folder, tmp_path / "copy")
    assert found["layers"] == 14 and found["bytes"] < 0.6 * found["bytes_before"]
    old, new = load_file(folder / "model.safetensors"), load_file(tmp_path / "copy/model.safetensors")
    for name, weight in old.items():
        if not name.endswith(LINEAR):
            assert torch.equal(new[name], weight)
            continue
        scale = new[name.removesuffix("weight") + "SCB"]
        assert new[name].dtype == torch.int8 and scale.shape == (len(weight),)
        back = new[name].float() * scale[:, None] / 127
        assert ((back - weight).abs() <= scale[:, None] / 254 * 1.001).all(), "at most half a step away"
        assert (new[name].abs().amax(1) == 127).all(), "the largest of each row takes the last step"
    assert check_servable(tmp_path / "copy")["rows"] == 403
    assert model_digest(tmp_path / "copy") != model_digest(folder)
    verify(tmp_path / "copy")
    words = command(tmp_path / "copy", Options(device="cuda", quantization="bnb8"), ["tiny"], port=1)
    assert "bitsandbytes" in words


def test_bitsandbytes_reads_it_so(folder: Path, tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    quantize(folder, tmp_path / "copy")
    new = load_file(tmp_path / "copy/model.safetensors")
    name = "model.layers.0.mlp.down_proj."
    weight = load_file(folder / "model.safetensors")[f"{name}weight"]
    values, scale, _ = functional.int8_vectorwise_quant(weight.half())
    assert (values - new[f"{name}weight"]).abs().max() <= 1 and (values == new[f"{name}weight"]).float().mean() > 0.98
    torch.testing.assert_close(scale, new[f"{name}SCB"], rtol=1e-3, atol=0)


def test_several_files(folder: Path, tmp_path: Path) -> None:
    split = Path(shutil.copytree(folder, tmp_path / "split"))
    (split / "model.safetensors").unlink()
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(split, max_shard_size="100KB")
    found = quantize(split, tmp_path / "copy")
    weight_map = json.loads((tmp_path / "copy/model.safetensors.index.json").read_text())["weight_map"]
    assert found["layers"] == 14 and len(set(weight_map.values())) > 1
    for name, file in weight_map.items():
        assert name in load_file(tmp_path / "copy" / file)


def test_refused(folder: Path, tmp_path: Path) -> None:
    quantize(folder, tmp_path / "copy")
    with pytest.raises(DataError, match="quantised already"):
        quantize(tmp_path / "copy", tmp_path / "again")
    with pytest.raises(StorageError, match="exists already"):
        quantize(folder, tmp_path / "copy")
