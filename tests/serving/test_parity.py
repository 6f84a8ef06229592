"""All checks hold for the served folder, and every other folder fails at the right one."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.cli import main
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving import client
from prealign_cpt.serving.agreement import ROUNDING_FACTOR
from prealign_cpt.serving.parity import CHECKS, check_parity, run_checks
from prealign_cpt.serving.server import Server
from tests.conftest import START
from tests.serving.conftest import TEXTS, that_adds

pytestmark = pytest.mark.slow


def test_passes(server: Server, folder: Path) -> None:
    checks = dict(run_checks(server.base_url, folder, TEXTS, START))
    assert list(checks) == list(CHECKS["generate"])
    figures = check_parity(server.base_url, folder, TEXTS, START)
    assert figures["rows"] == 403 and figures["texts"] == 3
    assert figures["model"] == server.pinned and figures["pinned"]
    assert figures["max_logprob_difference"] <= 1e-5 and figures["echo_difference"] <= 1e-5
    assert figures["tokens"] > 128 and figures["sampled"] == 384
    assert figures["text_tokens"] == checks["tokenization"]["text_tokens"] > 20


def test_the_command(server: Server, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("\n\n".join(TEXTS[:2]))
    words = ["check", server.base_url, str(tmp_path / "text"), "--model", str(folder), "--start-token", START]
    assert main(words) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [entry["check"] for entry in checks] == list(CHECKS["generate"]) and all(entry["holds"] for entry in checks)


def test_a_server_in_another_type(server: Server, folder: Path) -> None:
    """In bf16 the bound is what bf16 itself loses; the fp32 server keeps within it, and other weights do not."""
    figures = dict(run_checks(server.base_url, folder, TEXTS, START, dtype="bf16"))["log-probabilities"]
    assert 1e-3 < figures["rounding"] < 0.5 and figures["max_logprob_difference"] > 1e-3
    assert figures["bound"] == ROUNDING_FACTOR * figures["rounding"]
    assert figures["mean"] < figures["mean_bound"] < figures["bound"]


def test_other_folder(server: Server, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match="another model stands behind this address"):
        check_parity(server.base_url, other, TEXTS, START)


@pytest.fixture
def unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server as one that somebody else started: without digests in its names."""
    real = client.models
    monkeypatch.setattr(client, "models", lambda *a, **b: [m for m in real(*a, **b) if "@" not in m["id"]])


def test_other_weights(server: Server, make_folder: Callable[..., Path], tmp_path: Path, unpinned: None) -> None:
    other = make_folder(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match=r"log-probabilities differ by .* of text 1"):
        check_parity(server.base_url, other, TEXTS, START)


def test_other_tokenizer(server: Server, make_folder: Callable[..., Path], tmp_path: Path, unpinned: None) -> None:
    other = make_folder(tmp_path / "other", words="zug")
    with pytest.raises(DataError, match="another tokenizer"):
        check_parity(server.base_url, other, ["wort123 wort77"], START)


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
    monkeypatch.setattr(client, "sample_ids", lambda *_, **__: [[5, 403]])
    with pytest.raises(DataError, match="id 403 was sampled"):
        check_parity(server.base_url, folder, TEXTS[:1], START)


def test_a_start_token_that_the_server_does_not_add(
    server: Server, folder: Path, tmp_path: Path, unpinned: None
) -> None:
    assert not dict(run_checks(server.base_url, folder, TEXTS, START))["start token"]["adds_start_token"]
    with pytest.raises(DataError, match="other special tokens than the folder's tokenizer of 'Der Hund"):
        check_parity(server.base_url, that_adds(folder, START, tmp_path / "adds"), TEXTS, START)


def test_another_start_token_than_the_recipe_s(server: Server, folder: Path, tmp_path: Path, unpinned: None) -> None:
    with pytest.raises(DataError, match=r"puts \['e'\] around a text, the start token is '<.endoftext.>'"):
        check_parity(server.base_url, that_adds(folder, "e", tmp_path / "adds"), ["x y z"], START)


def test_query_example(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[2] / "serve/query.py"
    monkeypatch.setattr(sys, "argv", ["query.py", "--url", server.base_url, "--max-tokens", "4", "The dog", "Der Hund"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert "The dog |" in (printed := capsys.readouterr().out) and "Der Hund |" in printed
