"""What is evaluated: run folders, plain folders, and folders that are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError, MissingInputError, RecipeError
from tests.conftest import START


@pytest.fixture
def run(tmp_path: Path, base_folder: Path) -> Path:
    """A run folder with an export, as far as an evaluation looks at it."""
    folder = tmp_path / "german"
    shutil.copytree(base_folder, folder / "export")
    (folder / "recipe.toml").write_text(f'[base]\nmodel = "{base_folder}"\nstart_token = "{START}"\n')
    return folder


def test_a_run_gives_its_export_its_start_token_and_its_base(run: Path, base_folder: Path):
    subject = Subject(run, device="cpu")
    assert (subject.folder, subject.name, subject.base) == (run / "export", "german", base_folder)
    assert subject.start_token_id == subject.tokenizer.convert_tokens_to_ids(START)
    assert subject.model.dtype == torch.float32
    assert subject.base_subject is not None and subject.base_subject.base is None
    assert subject.base_subject.model_digest == subject.model_digest


def test_one_changed_weight_is_another_model(run: Path):
    before = Subject(run)
    digests = before.model_digest, before.tokenizer_digest
    path = run / "export" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    after = Subject(run)
    assert after.model_digest != digests[0]
    assert after.tokenizer_digest == digests[1]


def test_a_base_that_is_not_here_is_not_fetched(run: Path):
    (run / "recipe.toml").write_text('[base]\nmodel = "some/model"\n')
    subject = Subject(run)
    assert subject.base is None and subject.base_subject is None
    assert subject.start_token == START, "the tokenizer's BOS"


def test_refused(run: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match="'<s>' is not a token"):
        _ = Subject(run, start_token="<s>").start_token
    with pytest.raises(MissingInputError, match="no such folder"):
        Subject(tmp_path / "nothing")
    config = json.loads((run / "export" / "config.json").read_text())
    (run / "export" / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(DataError, match="auto_map"):
        Subject(run)
    shutil.rmtree(run / "export")
    with pytest.raises(MissingInputError, match="no export yet"):
        Subject(run)


def test_bf16_does_not_round_rotary_frequencies(run: Path):
    """They are fp32 in any model; as bf16 they put far positions elsewhere."""
    half = Subject(run, device="cpu", dtype="bf16").model
    exact = Subject(run, device="cpu", dtype="fp32").model
    assert half.get_input_embeddings().weight.dtype == torch.bfloat16
    for (name, buffer), expected in zip(half.named_buffers(), exact.buffers(), strict=True):
        assert torch.equal(buffer, expected), name
