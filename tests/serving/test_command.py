"""The words that start vLLM: derived from the folder, and refused where they cannot work."""

import json
import sys
from pathlib import Path

import pytest
import torch

from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.serving import command as module
from prealign_cpt.serving.command import Options, check_plugin, command, environment
from prealign_cpt.serving.key import VARIABLE


def words(folder: Path, **options: object) -> str:
    return " ".join(command(folder, Options(**{"device": "cpu"} | options), ["tiny"], port=1))  # type: ignore[arg-type]


def test_by_device(folder: Path) -> None:
    cpu = words(folder, max_model_len=64)
    assert " --dtype float32 " in cpu and " --enforce-eager " in cpu and " --max-model-len 64" in cpu
    cuda = words(folder, device="cuda")
    assert " --dtype bfloat16 " in cuda and "--enforce-eager" not in cuda and "--max-model-len" not in cuda
    assert "--trust-remote-code" not in cpu + cuda and " --host 127.0.0.1 --port 1 " in cpu
    gated = " ".join(command(folder, Options(device="cpu"), ["a", "a@0"], port=1, gateway=True))
    assert " --middleware prealign_cpt.serving.gateway.Gateway " in gated and " a a@0 " in gated
    assert "--middleware" not in cpu
    assert " --dtype bfloat16 " in words(folder, dtype="bf16") and " --dtype float32 " in words(
        folder, device="cuda", dtype="fp32"
    )


@pytest.mark.parametrize(("gpu", "build", "device"), [(True, True, "cuda"), (True, False, "cpu"), (False, True, "cpu")])
def test_the_device_is_found(monkeypatch: pytest.MonkeyPatch, gpu: bool, build: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(module, "_is_installed", lambda name: build)
    assert Options().device == Options(device="auto").device == device
    assert Options(device="cpu").device == "cpu"


def test_on_a_cpu_length_and_cache_come_from_the_model(folder: Path) -> None:
    assert " --max-model-len 256 " in words(folder), "the model's own limit"
    config = json.loads((folder / "config.json").read_text())
    # 8 sequences of 256 tokens: keys and values of 2 layers, 1 head of 32 numbers of 4 bytes; less than the least.
    assert f" --kv-cache-memory-bytes {2**26} " in words(folder)
    big = folder.parent / "big"
    big.mkdir(exist_ok=True)
    (big / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 200, "max_position_embeddings": 9000}))
    assert f" --kv-cache-memory-bytes {8 * 2048 * 2 * 200 * 32 * 4} " in words(big)
    assert " --max-model-len 8192 " in words(big)


def test_embedding(folder: Path) -> None:
    assert ' --runner pooling --convert embed --pooler-config {"pooling_type":"MEAN"} ' in words(folder, task="embed")
    assert '"LAST"' in words(folder, task="embed", pooling="last")


def test_parallel(folder: Path) -> None:
    found = words(folder, device="cuda", tensor_parallel=4, data_parallel=2, memory_share=0.5)
    assert " --gpu-memory-utilization 0.5 --tensor-parallel-size 4 --data-parallel-size 2 " in found


def test_quantized(folder: Path, tmp_path: Path) -> None:
    found = words(folder, device="cuda", quantization="bnb4")
    assert " --quantization bitsandbytes --load-format bitsandbytes " in found
    with pytest.raises(RecipeError, match=r"bnb8 needs a folder of 8-bit weights.*quantize.py"):
        words(folder, device="cuda", quantization="bnb8")
    config = json.loads((folder / "config.json").read_text())
    stored = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": stored}))
    assert " --quantization bitsandbytes " in words(tmp_path, device="cuda", quantization="bnb8")
    for options in ({}, {"device": "cuda"}, {"device": "cuda", "quantization": "bnb4"}):
        with pytest.raises(RecipeError, match="holds weights of quantization bnb8"):
            words(tmp_path, **options)
    with pytest.raises(RecipeError, match="cannot be split"):
        words(tmp_path, device="cuda", quantization="bnb8", tensor_parallel=2)
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(RecipeError, match="awq"):
        words(tmp_path)


def test_the_plugin_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    check_plugin(Options())
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingInputError, match="vllm-bnb-plugin"):
        check_plugin(Options(device="cuda", quantization="bnb4"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "bnb4", "device": "cpu"}, "needs a GPU"),
        ({"device": "cuda", "quantization": "bnb4", "dtype": "fp32"}, "computes in bf16"),
        ({"quantization": "gptq"}, "choose bnb8, bnb4"),
        ({"dtype": "fp16"}, "choose bf16, fp32"),
        ({"pooling": "max"}, "choose mean, last, cls"),
        ({"tensor_parallel": 0}, "1 is the least"),
        ({"memory_share": 1.5}, "between 0 and 1"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Options(**options)  # type: ignore[arg-type]


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv(VARIABLE, "secret" * 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = environment("cpu")
    assert found["HF_HUB_OFFLINE"] == found["VLLM_NO_USAGE_STATS"] == found["DO_NOT_TRACK"] == "1"
    assert found["OMP_NUM_THREADS"] == "3" and "VLLM_SERVER_DEV_MODE" not in found
    assert found["TORCHDYNAMO_DISABLE"] == "1" and "TORCHDYNAMO_DISABLE" not in environment("cuda")
    assert VARIABLE not in found and "secret" not in str(found), "vLLM has no use for the key"
