"""Greedy text is the same one by one, in a batch, and from a server."""

from pathlib import Path

import pytest
import torch

from prealign_cpt.errors import DataError, UnavailableError
from prealign_cpt.evaluate.generate import write
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.serving import transport
from tests.conftest import ENGLISH
from tests.evaluate.served import ServedModel

PROMPTS = ["The old house", "A king had three daughters. The youngest", "The", "Every day she walked under the trees."]


def one_by_one(subject: Subject, prompt: str, tokens: int) -> str:
    """The likeliest token, again and again; no batch, no padding, no cache."""
    row = [subject.start_token_id, *subject.tokenizer(prompt)["input_ids"]]
    length = len(row)
    for _ in range(tokens):
        row.append(int(subject.model(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
        if row[-1] == subject.start_token_id:
            break
    return subject.tokenizer.decode(row[length:], skip_special_tokens=True)


def test_batches_and_servers_write_what_single_prompts_do(base_folder: Path):
    subject = Subject(base_folder)
    expected = [one_by_one(subject, prompt, 12) for prompt in PROMPTS]
    assert len(set(expected)) > 1
    assert write(subject, PROMPTS, 12) == expected
    with ServedModel(base_folder) as server:
        assert write(Subject(base_folder, url=server.base_url), PROMPTS, 12) == expected


def test_a_stop_ends_the_text_and_is_left_out(base_folder: Path):
    subject = Subject(base_folder)
    (whole,) = write(subject, [PROMPTS[1]], 12)
    stop = whole[4]
    (cut,) = write(subject, [PROMPTS[1]], 12, stop)
    assert cut == whole.split(stop)[0] != whole
    with ServedModel(base_folder) as server:
        assert write(Subject(base_folder, url=server.base_url), [PROMPTS[1]], 12, stop) == [cut]
        assert server.requests[-1][1]["stop"] == [stop]


def test_a_long_prompt_loses_its_beginning(base_folder: Path):
    subject = Subject(base_folder)
    text = " ".join(ENGLISH * 20)
    with ServedModel(base_folder) as server:
        write(Subject(base_folder, url=server.base_url), [text], 8)
        (ids,) = server.requests[-1][1]["prompt"]
    assert len(ids) == 256 - 8, "the server takes 256"
    assert ids[0] == 0 and ids[1:] == subject.tokenizer(text)["input_ids"][-(256 - 8 - 1) :]
    with pytest.raises(DataError, match="too short for 512 tokens"):
        write(subject, PROMPTS, 512)


def test_missing_answers_and_dead_servers_are_errors(base_folder: Path, monkeypatch):
    monkeypatch.setattr(transport, "PAUSE", 0.01)
    with ServedModel(base_folder, "missing", after=2) as server, pytest.raises(DataError, match=r"4 choices .* 3 came"):
        write(Subject(base_folder, url=server.base_url), PROMPTS, 4)
    with ServedModel(base_folder, "dies", after=2) as server, pytest.raises(UnavailableError):
        write(Subject(base_folder, url=server.base_url), PROMPTS, 4)
    with ServedModel(base_folder, "unsorted", after=2) as server:
        assert write(Subject(base_folder, url=server.base_url), PROMPTS, 4) == write(Subject(base_folder), PROMPTS, 4)
