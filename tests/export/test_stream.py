"""The export is written tensor by tensor: what `save_pretrained` would write, and never the whole model in memory."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from prealign_cpt.model import tensors
from prealign_cpt.model.tensors import INDEX
from tests.conftest import make_model


def _without_weights(source: LlamaForCausalLM) -> LlamaForCausalLM:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config)
    model.generation_config = source.generation_config
    return model.to(torch.bfloat16)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [50_000_000_000, 9_000])
def test_a_streamed_folder_is_what_transformers_writes(tmp_path: Path, tied: bool, size: int) -> None:
    model = make_model(67, tied=tied)
    masters = model.state_dict()
    alive: list[int] = []
    most = [0]

    def read(name: str) -> Tensor:
        tensor = masters[name].clone()
        alive.append(tensor.numel())
        return tensor

    real = tensors.save_file

    def save(values: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        most[0] = max(most[0], sum(tensor.nbytes for tensor in values.values()))
        real(values, path, metadata=metadata)

    tensors.save_file = save
    try:
        names = tensors.write_weights(_without_weights(model), read, tmp_path / "ours", size)
    finally:
        tensors.save_file = real
    model.to(torch.bfloat16).save_pretrained(tmp_path / "theirs", max_shard_size=size)
    ours, theirs = ({p.name: p for p in (tmp_path / which).iterdir()} for which in ("ours", "theirs"))
    assert ours.keys() == theirs.keys() and (INDEX in ours) == (size == 9_000)
    for name, path in ours.items():
        if path.suffix == ".json":
            assert json.loads(path.read_text()) == json.loads(theirs[name].read_text()), name
            continue
        one, other = load_file(path), load_file(theirs[name])
        assert one.keys() == other.keys()
        assert all(one[key].dtype == torch.bfloat16 and torch.equal(one[key], other[key]) for key in one)
    assert len(alive) == len(names) == len(masters) - tied, "every tensor is read once"
    assert most[0] <= size
