"""What is refused before anything starts, and the name that tells a folder from any other."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from prealign_cpt.run import manifest
from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.serving.folder import PINNED, check_servable, model_digest, model_name, pinned_name


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(path: Path, **values: object) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | values))


def test_good_folder(folder: Path) -> None:
    assert check_servable(folder, "cpu")["rows"] == 403


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        check_servable(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["modeling_x.py", "sub/x.py", "pytorch_model.bin", "training_args.PT", "state.pkl"])
def test_code_and_pickles(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"")
    with pytest.raises(DataError, match="never served"):
        check_servable(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("value", [{"auto_map": {}}, {"vision_config": [{"auto_map": {"AutoConfig": "x--y"}}]}])
def test_auto_map(copy: Path, name: str, value: dict[str, object]) -> None:
    edit(copy / name, **value)
    with pytest.raises(DataError, match="auto_map"):
        check_servable(copy)


def test_a_token_without_a_row(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="402 rows but 403 tokens"):
        check_servable(make_folder(tmp_path / "short", rows=402))


def test_rows_that_pad(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A base whose vocabulary was not grown keeps the rows that its authors added; no id points to them."""
    padded = make_folder(tmp_path / "padded", rows=448)
    found = check_servable(padded)
    assert (found["rows"], found["num_tokens"]) == (448, 403)
    edit(padded / "config.json", eos_token_id=403)
    with pytest.raises(DataError, match="eos_token_id is 403, which is not one of the 403 tokens"):
        check_servable(padded)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"vocab_size": 404}, r"has 403 rows, config.json's vocab_size is 404"),
        ("config.json", {"tie_word_embeddings": False}, "no lm_head"),
        ("config.json", {"eos_token_id": [0, 403]}, "eos_token_id is 403"),
        ("generation_config.json", {"eos_token_id": [0, 403]}, "eos_token_id is 403"),
        ("tokenizer.json", {"model": {}}, "tokenizer does not load"),
        ("model.safetensors.index.json", {"weight_map": {"a": "model-2.safetensors"}}, "model-2"),
        ("config.json", None, "missing"),
        ("tokenizer.json", None, "missing"),
        ("tokenizer_config.json", None, "missing"),
        ("model.safetensors", None, "no .*safetensors"),
    ],
)
def test_damage(copy: Path, name: str, values: dict[str, object] | None, message: str) -> None:
    edit(copy / name, **values) if values else (copy / name).unlink()
    with pytest.raises((DataError, MissingInputError), match=message):
        check_servable(copy)


def test_damaged_weights(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"][:-1].clone()
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"lm_head.weight has 402 rows"):
        check_servable(copy)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-4])
    with pytest.raises(DataError, match="damaged"):
        check_servable(copy)


def test_head_dim_that_would_end_the_cpu_server(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    made = make_folder(tmp_path / "small", num_attention_heads=4)
    check_servable(made, "cuda")
    with pytest.raises(DataError, match="head_dim 16"):
        check_servable(made, "cpu")


def test_manifest(folder: Path, tmp_path: Path) -> None:
    with manifest.new_folder(tmp_path / "export", {}) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
    check_servable(tmp_path / "export")
    with (tmp_path / "export/model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(DataError, match=r"model.safetensors: damaged"):
        check_servable(tmp_path / "export")


def test_file_beside_the_manifest(folder: Path, tmp_path: Path) -> None:
    with manifest.new_folder(tmp_path / "export", {}) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
    shutil.copy(folder / "model.safetensors", tmp_path / "export/model-2.safetensors")
    with pytest.raises(DataError, match="not in the folder's manifest"):
        check_servable(tmp_path / "export")


def test_model_name(tmp_path: Path) -> None:
    assert model_name(tmp_path / "runs/demo/export") == "demo"
    assert model_name(tmp_path / "smollm2") == "smollm2"


def test_pinned_name() -> None:
    name = pinned_name("demo", "0123456789abcdef")
    assert name == "demo@0123456789ab" and PINNED.fullmatch(name)
    assert not PINNED.fullmatch("demo") and not PINNED.fullmatch("demo@home")


def test_digest_is_of_what_vllm_reads(folder: Path, copy: Path, tmp_path: Path) -> None:
    first = model_digest(folder)
    (copy / "README.md").write_text("about it")
    (copy / "parity.json").write_text("{}")
    assert model_digest(copy) == first, "neither the place nor what is said about the model counts"
    with manifest.new_folder(tmp_path / "export", {"time": 1}) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
    assert model_digest(tmp_path / "export") == first, "with a manifest or without"
    edit(copy / "tokenizer_config.json", chat_template="{{ x }}")
    assert model_digest(copy) != first
