"""The client, the canary and the check before servers that misbehave (rows 78, 79, 80)."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prealign_cpt.cli import main
from prealign_cpt.run.errors import DataError, PrealignError, UnavailableError
from prealign_cpt.serving import client, transport
from prealign_cpt.serving.folder import model_digest, pinned_name
from prealign_cpt.serving.identity import identify
from prealign_cpt.serving.parity import RUNGS, climb
from tests.conftest import START, free_port
from tests.serving.conftest import TEXTS
from tests.serving.faulty import Faulty, score, vector

IDS = [0, 5, 6, 7]
SEQUENCES = [[1, 2], [3], [4, 5, 6]]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE", 0.01)


def score_ids(url: str) -> list[float]:
    return client.token_logprobs(url, "tiny", IDS)


def embed(url: str) -> np.ndarray:
    return client.embed(url, "tiny", SEQUENCES, size=8)


def test_a_good_server() -> None:
    with Faulty() as server:
        expected = [score(IDS[:n], IDS[n]) for n in (1, 2, 3)]
        assert score_ids(server.base_url) == expected
        assert client.many_logprobs(server.base_url, "tiny", [IDS, IDS[:2]]) == [expected, expected[:1]]
        assert client.complete_many(server.base_url, "tiny", [[1], [2]], max_tokens=2) == ["31 187", "62 373"]
        assert client.check_echo(server.base_url, "tiny", IDS) == 0
        np.testing.assert_allclose(embed(server.base_url), [vector(ids, 8) for ids in SEQUENCES], rtol=1e-6)
        many = [[number] for number in range(70)]
        found = client.embed(server.base_url, "tiny", many)
        np.testing.assert_allclose(found[69], vector([69], 8), rtol=1e-6)
        assert [len(body["input"]) for path, body in server.requests if path == "/v1/embeddings"][1:] == [32, 32, 6]
        assert (
            client.complete_many(server.base_url, "tiny", []) == client.many_logprobs(server.base_url, "tiny", []) == []
        )


@pytest.mark.parametrize("fault", ["error", "cut", "truncated", "html"])
@pytest.mark.parametrize("ask", [score_ids, embed])
def test_what_does_not_arrive_is_asked_for_again(fault: str, ask: Any) -> None:
    with Faulty() as good:
        expected = ask(good.base_url)
    with Faulty(fault, times=transport.RETRIES) as server:
        np.testing.assert_array_equal(ask(server.base_url), expected)
        assert len(server.requests) == transport.RETRIES + 1
    with Faulty(fault) as server:
        with pytest.raises(UnavailableError, match="no usable answer after 5 attempts"):
            ask(server.base_url)
        assert len(server.requests) == transport.RETRIES + 1, "attempts are bounded"


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(transport, "PAUSE", 0.5)
    monkeypatch.setattr(transport, "RETRIES", 6)
    monkeypatch.setattr(time, "sleep", lambda seconds: pauses.append(seconds))
    with pytest.raises(UnavailableError):
        client.models(f"http://127.0.0.1:{free_port()}/v1")
    assert pauses == [0.5, 1, 2, 4, 8, 8]


def test_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TIMEOUT", 0.2)
    with Faulty("slow", seconds=1.0, times=1) as server:
        assert len(score_ids(server.base_url)) == 3, "the second attempt is in time"
    monkeypatch.setattr(transport, "RETRIES", 1)
    with Faulty("slow", seconds=1.0) as server, pytest.raises(UnavailableError, match=r"after 2 attempts: .*timed out"):
        score_ids(server.base_url)


def test_dies_midway() -> None:
    with Faulty("dies", after=2) as server:
        first = [client.token_logprobs(server.base_url, "tiny", ids) for ids in (IDS, IDS[:2])]
        with pytest.raises(UnavailableError, match="no usable answer"):
            score_ids(server.base_url)
    assert [len(values) for values in first] == [3, 1], "what was scored before is there"


@pytest.mark.parametrize(
    ("fault", "ask", "message"),
    [
        ("no_logprobs", score_ids, "4 ids were sent, log-probabilities came for none"),
        ("nan", score_ids, r"log-probability nan at position 3 \(id 7\)"),
        ("missing", score_ids, "1 choices were asked for, 0 came"),
        ("missing", embed, "3 embeddings were asked for, 2 came"),
        ("nan", embed, "embedding 2 is zero or not finite"),
        ("empty_vectors", embed, r"embedding 0 is \(0,\), \(8,\) is expected"),
    ],
)
def test_what_is_wrong_is_refused_at_once(fault: str, ask: Any, message: str) -> None:
    with Faulty(fault) as server:
        with pytest.raises(DataError, match=message):
            ask(server.base_url)
        assert len(server.requests) == 1, "asking again would not mend it"


@pytest.mark.parametrize("size", [4, 16])
def test_vectors_of_another_size(size: int) -> None:
    with Faulty(size=size) as server, pytest.raises(DataError, match=rf"embedding 0 is \({size},\), \(8,\)"):
        embed(server.base_url)


def test_zero_vectors() -> None:
    with Faulty(vector=lambda ids, size: [0.0] * size) as server, pytest.raises(DataError, match="zero or not finite"):
        embed(server.base_url)


def test_any_order_is_put_right_by_the_index() -> None:
    with Faulty("unsorted") as server:
        np.testing.assert_allclose(embed(server.base_url), [vector(ids, 8) for ids in SEQUENCES], rtol=1e-6)
        both = client.many_logprobs(server.base_url, "tiny", [IDS, IDS[:2]])
        assert [len(values) for values in both] == [3, 1]


@pytest.mark.parametrize("fault", ["shifted", "no_logprobs", "nan"])
def test_the_canary(fault: str) -> None:
    with Faulty(fault) as server, pytest.raises(DataError, match="echo log-probabilities cannot be used"):
        client.check_echo(server.base_url, "tiny", IDS)


def test_the_canary_finds_a_model_that_scores_otherwise_than_it_writes() -> None:
    calls = iter(range(1000))
    with (
        Faulty(score=lambda before, number: -1.0 - next(calls) / 4) as server,
        pytest.raises(DataError, match="echo gives other log-probabilities than generation"),
    ):
        client.check_echo(server.base_url, "tiny", IDS)


def test_identity(folder: Path, tmp_path: Path) -> None:
    own = pinned_name("tiny", model_digest(folder))
    with Faulty(names=("tiny", own)) as server:
        assert identify(server.base_url, folder) == (own, True, 256)
    with Faulty() as server:
        assert identify(server.base_url, folder) == ("tiny", False, 256)
    with Faulty(names=("tiny", "tiny@0123456789ab")) as server, pytest.raises(DataError, match="another model stands"):
        identify(server.base_url, folder)
    with Faulty(names=("a", "b")) as server, pytest.raises(DataError, match="serves 2 models"):
        identify(server.base_url, folder)


def test_a_model_that_is_exchanged_under_way(folder: Path) -> None:
    """A request by the pinned name is refused by the server's next model."""
    own = pinned_name("tiny", model_digest(folder))
    with Faulty(names=("tiny", own)) as server:
        name, _, _ = identify(server.base_url, folder)
        client.token_logprobs(server.base_url, name, IDS)
        server.names = ("tiny", "tiny@0123456789ab")
        with pytest.raises(UnavailableError, match="does not exist"):
            client.token_logprobs(server.base_url, name, IDS)


def test_the_ladder_stops_at_the_first_broken_rung(folder: Path) -> None:
    passed: list[str] = []

    def rungs(server: Faulty, task: str = "generate") -> None:
        passed.clear()
        for name, _ in climb(server.base_url, folder, TEXTS[:1], START, task=task):
            passed.append(name)

    own = pinned_name("tiny", model_digest(folder))
    with Faulty(names=("tiny", "tiny@0123456789ab")) as server, pytest.raises(PrealignError):
        rungs(server)
    assert passed == ["shapes", "round trip"]
    with Faulty(names=(own,)) as server, pytest.raises(DataError, match="other ids than the folder's tokenizer"):
        rungs(server)
    assert passed == ["shapes", "round trip", "identity"]
    with Faulty(names=(own,), size=64) as server, pytest.raises(DataError, match="embeddings differ by"):
        rungs(server, "embed")
    assert passed == list(RUNGS["embed"][:-1])


def test_check_prints_all_rungs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Faulty(names=("tiny", "tiny@0123456789ab")) as server:
        assert main(["check", server.base_url, "--model", str(folder)]) == DataError.exit_code
    captured = capsys.readouterr()
    rungs = json.loads(captured.out)["rungs"]
    assert [(rung["rung"], rung["holds"]) for rung in rungs] == [
        ("shapes", True),
        ("round trip", True),
        ("identity", False),
    ]
    assert rungs[0]["rows"] == 403 and "another model" in rungs[2]["problem"]
    assert captured.err == f"prealign: {rungs[2]['problem']}\n"


def test_check_of_nobody(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"http://127.0.0.1:{free_port()}/v1", "--model", str(folder)]) == UnavailableError.exit_code
    assert json.loads(capsys.readouterr().out)["rungs"][-1]["holds"] is False
