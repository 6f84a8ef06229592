"""serve/gguf.py hands a converter the base's tokenizer only where the export cuts text as the base does."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from prealign_cpt.export.folder import save_tokenizer
from prealign_cpt.vocab.grow import grow_tokenizer
from tests.vocab.conftest import ENGLISH, SPECIAL, TARGET, byte_level

SCRIPT = Path(__file__).parents[2] / "serve" / "gguf.py"


@pytest.fixture(scope="module")
def gguf() -> Any:
    spec = importlib.util.spec_from_file_location("serve_gguf", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An export with a grown tokenizer, and its base."""
    base, grown, export = byte_level(tmp_path / "base", llama3=True), tmp_path / "grown", tmp_path / "export"
    grow_tokenizer(base, TARGET["russian"], ENGLISH, 40, grown)
    export.mkdir()
    save_tokenizer(AutoTokenizer.from_pretrained(grown), SPECIAL, grown, export)
    return export, base


def test_a_grown_tokenizer_cuts_as_its_base(gguf: Any, folders: tuple[Path, Path]) -> None:
    gguf.same_cut(*folders)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}),
    ],
)
def test_another_cut_is_refused(gguf: Any, folders: tuple[Path, Path], part: str, value: dict[str, Any]) -> None:
    path = folders[1] / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: value}))
    with pytest.raises(SystemExit, match=f"its {part} is not that of"):
        gguf.same_cut(*folders)


def test_another_base_is_refused(gguf: Any, folders: tuple[Path, Path]) -> None:
    path = folders[1] / "tokenizer.json"
    content = json.loads(path.read_text())
    first, second = list(content["model"]["vocab"])[:2]
    vocab = content["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="have other ids there"):
        gguf.same_cut(*folders)
