"""Greedy text is the same one by one, in a batch, and from a server."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prealign_cpt.evaluate.served import end_ids, write
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError, UnavailableError
from prealign_cpt.serving import client
from tests.conftest import ENGLISH
from tests.evaluate.served import ServedModel

PROMPTS = ["The old house", "A king had three daughters. The youngest", "The", "Every day she walked under the trees."]


def greedy(subject: Subject, prompt: str, tokens: int) -> list[int]:
    """The likeliest token, again and again, until the start token; no batch, no padding, no cache."""
    row = [subject.start_token_id, *subject.tokenizer(prompt)["input_ids"]]
    length = len(row)
    for _ in range(tokens):
        row.append(int(subject.model(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
        if row[-1] == subject.start_token_id:
            break
    return row[length:]


def one_by_one(subject: Subject, prompt: str, tokens: int) -> str:
    """The text of these, without a character at its end whose bytes are not all there."""
    return subject.tokenizer.decode(greedy(subject, prompt, tokens), skip_special_tokens=True).rstrip("\ufffd")


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


@pytest.mark.parametrize("end", ["start token", "configuration"])
def test_the_same_tokens_end_a_text_here_and_on_a_server(base_folder: Path, tmp_path: Path, end: str):
    """The base writes `first`, then `second`. Here the second is the start token, or named by the configuration alone,
    as with models whose start token is also their end-of-text token, and with chat models."""
    base = Subject(base_folder)
    first, second = greedy(base, PROMPTS[1], 2)
    assert first != second
    folder = shutil.copytree(base_folder, tmp_path / "ending")
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    if end == "configuration":
        model.config.eos_token_id = model.generation_config.eos_token_id = [second]
    else:
        model.config.tie_word_embeddings = False
        head_VD = model.get_input_embeddings().weight.detach().clone()
        head_VD[0] = 1.001 * head_VD[second]
        model.lm_head.weight = torch.nn.Parameter(head_VD)
    model.save_pretrained(folder)
    subject = Subject(folder)
    expected = subject.tokenizer.decode([first]).rstrip("\ufffd")
    assert end_ids(subject) == ([0, second] if end == "configuration" else [0])
    assert write(subject, [PROMPTS[1]], 12) == [expected]
    found = write(subject, PROMPTS, 12)
    assert found[1] == expected, "in a batch too"
    with ServedModel(folder) as server:
        assert write(Subject(folder, url=server.base_url), PROMPTS, 12) == found
        assert server.requests[-1][1]["stop_token_ids"] == end_ids(subject)


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
    monkeypatch.setattr(client, "PAUSE", 0.01)
    with ServedModel(base_folder, "missing", after=2) as server, pytest.raises(DataError, match=r"4 choices .* 3 came"):
        write(Subject(base_folder, url=server.base_url), PROMPTS, 4)
    with ServedModel(base_folder, "dies", after=2) as server, pytest.raises(UnavailableError):
        write(Subject(base_folder, url=server.base_url), PROMPTS, 4)
    with ServedModel(base_folder, "unsorted", after=2) as server:
        assert write(Subject(base_folder, url=server.base_url), PROMPTS, 4) == write(Subject(base_folder), PROMPTS, 4)
