"""What the client takes of a good server, real or fake, and what it refuses of a bad one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from openai.types import CompletionChoice
from transformers import AutoTokenizer

from prealign_cpt.cli import main
from prealign_cpt.run.errors import DataError, PrealignError, UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving.folder import model_digest, pinned_name
from prealign_cpt.serving.parity import CHECKS, run_checks
from prealign_cpt.serving.server import Server
from tests.conftest import START, free_port
from tests.serving.conftest import TEXTS
from tests.serving.faulty import Faulty, score, vector

IDS = [0, 5, 6, 7]
SEQUENCES = [[1, 2], [3], [4, 5, 6]]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.01)


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
    with Faulty(fault, times=client.RETRIES) as server:
        np.testing.assert_array_equal(ask(server.base_url), expected)
        assert len(server.requests) == client.RETRIES + 1
    with Faulty(fault) as server:
        with pytest.raises(UnavailableError, match="no usable answer after 5 attempts"):
            ask(server.base_url)
        assert len(server.requests) == client.RETRIES + 1, "attempts are bounded"


def test_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    with Faulty("slow", seconds=1.0, times=1) as server:
        assert len(score_ids(server.base_url)) == 3, "the second attempt is in time"
    monkeypatch.setattr(client, "RETRIES", 1)
    with Faulty("slow", seconds=1.0) as server, pytest.raises(UnavailableError, match=r"after 2 attempts: .*timed out"):
        score_ids(server.base_url)


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
    pinned = pinned_name("tiny", model_digest(folder))
    with Faulty(names=("tiny", pinned)) as server:
        assert client.identify(server.base_url, folder) == (pinned, True, 256)
    with Faulty() as server:
        assert client.identify(server.base_url, folder) == ("tiny", False, 256)
    with Faulty(names=("tiny", "tiny@0123456789ab")) as server, pytest.raises(DataError, match="another model stands"):
        client.identify(server.base_url, folder)
    with Faulty(names=("a", "b")) as server, pytest.raises(DataError, match="serves 2 models"):
        client.identify(server.base_url, folder)


def test_a_model_that_is_exchanged_under_way(folder: Path) -> None:
    """A request by the pinned name is refused by the server's next model."""
    pinned = pinned_name("tiny", model_digest(folder))
    with Faulty(names=("tiny", pinned)) as server:
        name, _, _ = client.identify(server.base_url, folder)
        client.token_logprobs(server.base_url, name, IDS)
        server.names = ("tiny", "tiny@0123456789ab")
        with pytest.raises(UnavailableError, match="does not exist"):
            client.token_logprobs(server.base_url, name, IDS)


def test_the_checks_stop_at_the_first_that_does_not_hold(folder: Path) -> None:
    passed: list[str] = []

    def run(server: Faulty, task: str = "generate") -> None:
        passed.clear()
        for name, _ in run_checks(server.base_url, folder, TEXTS[:1], START, task=task):
            passed.append(name)

    pinned = pinned_name("tiny", model_digest(folder))
    with Faulty(names=("tiny", "tiny@0123456789ab")) as server, pytest.raises(PrealignError):
        run(server)
    assert passed == ["shapes", "round trip"]
    with Faulty(names=(pinned,)) as server, pytest.raises(DataError, match="other ids than the folder's tokenizer"):
        run(server)
    assert passed == ["shapes", "round trip", "identity"]
    with Faulty(names=(pinned,), size=64) as server, pytest.raises(DataError, match="embeddings differ by"):
        run(server, "embed")
    assert passed == list(CHECKS["embed"][:-1])


def test_check_prints_all_checks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Faulty(names=("tiny", "tiny@0123456789ab")) as server:
        assert main(["check", server.base_url, "--model", str(folder)]) == DataError.exit_code
    captured = capsys.readouterr()
    checks = json.loads(captured.out)["checks"]
    assert [(entry["check"], entry["holds"]) for entry in checks] == [
        ("shapes", True),
        ("round trip", True),
        ("identity", False),
    ]
    assert checks[0]["rows"] == 403 and "another model" in checks[2]["problem"]
    assert captured.err == f"prealign: {checks[2]['problem']}\n"


def test_check_of_nobody(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"http://127.0.0.1:{free_port()}/v1", "--model", str(folder)]) == UnavailableError.exit_code
    assert json.loads(capsys.readouterr().out)["checks"][-1]["holds"] is False


@pytest.mark.parametrize(
    ("values", "more", "message"),
    [
        (None, {}, "came for none"),
        ([None, -1.0], {}, "came for 2"),
        ([None, -1.0, None], {}, "None at position 2"),
        ([None, -1.0, float("nan")], {}, "nan at position 2"),
        ([None, float("-inf"), -1.0], {}, "-inf at position 1"),
        ([-1.0, -1.0, -1.0], {}, "shifted by one"),
        ([None, -1.0, -1.0], {"prompt_token_ids": [0, 5, 6, 7]}, "other ids"),
        ([None, -1.0, -1.0], {"index": 1}, "1 choices were asked for, 1 came, with the indices"),
    ],
)
def test_refused_scores(
    monkeypatch: pytest.MonkeyPatch, values: list[float | None] | None, more: dict[str, Any], message: str
) -> None:
    fields = {"index": 0, "text": "", "logprobs": None if values is None else {"token_logprobs": values}} | more
    answer = SimpleNamespace(choices=[CompletionChoice.construct(**fields)])
    monkeypatch.setattr(client, "ask", lambda *_: answer)
    with pytest.raises(DataError, match=message):
        client.token_logprobs("http://127.0.0.1:1/v1", "m", [5, 6, 7])


def test_a_refused_request_is_not_repeated() -> None:
    with Faulty("refuses") as server:
        with pytest.raises(DataError, match="too long"):
            score_ids(server.base_url)
        assert len(server.requests) == 1


def test_no_proxy_is_asked_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Faulty() as server:
        assert score_ids(server.base_url)


@pytest.mark.slow
def test_completion(server: Server) -> None:
    text = client.complete(server.base_url, server.model, "Der Hund", max_tokens=8)
    assert text and text == client.complete(server.base_url, server.model, "Der Hund", max_tokens=8)
    assert client.complete(server.base_url, server.model, [0, 36, 281], max_tokens=8)


@pytest.mark.slow
def test_sampling_is_seeded(server: Server) -> None:
    arguments = {"max_tokens": 12, "temperature": 1.5, "n": 2, "seed": 3}
    samples = client.sample_ids(server.base_url, server.model, [0], **arguments)
    assert [len(ids) for ids in samples] == [12, 12]
    assert samples == client.sample_ids(server.base_url, server.model, [0], **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("ids", "message"), [([0, 403], "no id from 0 to 402"), ([0] * 128, "128")])
def test_ids_the_server_refuses(server: Server, ids: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        client.token_logprobs(server.base_url, server.model, ids)
    assert client.token_logprobs(server.base_url, server.model, [0, 1]), "the server survives"


@pytest.mark.slow
def test_unknown_model(server: Server) -> None:
    with pytest.raises(UnavailableError, match="nope"):
        client.complete(server.base_url, "nope", "x")


@pytest.mark.slow
def test_many_at_once(server: Server) -> None:
    prompts = [[0, 36], [0, 281, 300, 12], [0]]
    texts = client.complete_many(server.base_url, server.model, prompts, max_tokens=8)
    assert texts == [client.complete(server.base_url, server.model, ids, max_tokens=8) for ids in prompts]
    single = [client.token_logprobs(server.base_url, server.model, ids) for ids in prompts]
    for left, right in zip(client.many_logprobs(server.base_url, server.model, prompts), single, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.slow
def test_tokens_and_canary(server: Server, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert client.tokenize(server.base_url, server.model, "Größe 🐕") == tokenizer.encode("Größe 🐕")
    assert client.check_echo(server.base_url, server.pinned, [0, 5, 6]) < 1e-5
    stopped = client.complete(server.base_url, server.model, [0], max_tokens=20, stop=["e", "a", "o", " "])
    assert not set("eao ") & set(stopped)
