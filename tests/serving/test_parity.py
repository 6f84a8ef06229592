"""The ladder passes for the served folder, and every other folder breaks it at the right rung."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.errors import DataError
from prealign_cpt.serving import parity
from prealign_cpt.serving.parity import check_parity
from prealign_cpt.serving.server import Server
from tests.serving.conftest import START, TEXTS

pytestmark = pytest.mark.slow


def test_passes(server: Server, folder: Path) -> None:
    figures = check_parity(server.base_url, folder, TEXTS, START)
    assert figures["rows"] == 403 and figures["texts"] == 3
    assert figures["max_logprob_difference"] <= 1e-5
    assert figures["tokens"] > 128 and figures["sampled"] == 384


def test_long_text_is_cut_to_the_model(server: Server, folder: Path) -> None:
    assert check_parity(server.base_url, folder, ["ab " * 400], START)["tokens"] == 126 + 2 * 64


def test_other_weights(server: Server, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match=r"log-probabilities differ by .* of text 1"):
        check_parity(server.base_url, other, TEXTS, START)


def test_other_tokenizer(server: Server, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", words="zug")
    with pytest.raises(DataError, match="another tokenizer"):
        check_parity(server.base_url, other, ["wort123 wort77"], START)


def test_padded_rows(server: Server, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="448 rows but 403 tokens"):
        check_parity(server.base_url, make_folder(tmp_path / "padded", rows=448), TEXTS, START)


def test_tokenizer_that_loses_text(server: Server, folder: Path, tmp_path: Path) -> None:
    lossy = Path(shutil.copytree(folder, tmp_path / "lossy"))
    content = json.loads((lossy / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (lossy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="round trip: 'Der Hund"):
        check_parity(server.base_url, lossy, TEXTS, START)


def test_unknown_start_token(server: Server, folder: Path) -> None:
    with pytest.raises(DataError, match="start token '<s>'"):
        check_parity(server.base_url, folder, TEXTS, "<s>")


def test_sampled_id_without_a_token(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity.client, "sample_ids", lambda *_, **__: [[5, 403]])
    with pytest.raises(DataError, match="id 403 was sampled"):
        check_parity(server.base_url, folder, TEXTS[:1], START)


def test_query_example(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[2] / "serve/query.py"
    monkeypatch.setattr(sys, "argv", ["query.py", "--url", server.base_url, "--max-tokens", "4", "The dog", "Der Hund"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert "The dog |" in (printed := capsys.readouterr().out) and "Der Hund |" in printed
