"""The oracle: with the rows of its originals, clone text costs what is known exactly."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from prealign_cpt.evaluate.clka import answer_ranks
from prealign_cpt.evaluate.data import read_questions
from prealign_cpt.lab.clone.oracle import oracle_rows
from prealign_cpt.lab.clone.tokenizer import make_cloner, mirror_tokenizer
from prealign_cpt.vocab.grow import encode, load_tokenizer
from prealign_cpt.vocab.rows import grow_rows
from tests.conftest import ENGLISH, make_model

START_ID = 0


def log_probabilities(model: LlamaForCausalLM, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([[START_ID, *ids]])).logits[0, :-1].double().log_softmax(dim=-1)


def cost(log_TV: Tensor, ids: list[int]) -> Tensor:
    return -log_TV[torch.arange(len(ids)), torch.tensor(ids)]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def arms(request, tmp_path_factory, base_folder: Path):
    """Base model, model with oracle rows, pieces, and a text in both languages."""
    folder = tmp_path_factory.mktemp("oracle")
    texts = [f"{ENGLISH[0]} 12, 34; {ENGLISH[3]}", *ENGLISH]
    cloner = make_cloner(base_folder, texts)
    mirror = mirror_tokenizer(base_folder, cloner, texts, 0, folder / "tokenizer")
    old, new = load_tokenizer(base_folder), load_tokenizer(folder / "tokenizer")
    base, grown = make_model(len(old), tied=request.param), make_model(len(old), tied=request.param)
    oracle_rows(base, [piece.original for piece in mirror.pieces], folder / "rows.safetensors")
    rows = load_file(folder / "rows.safetensors")
    assert sorted(rows) == (["input"] if request.param else ["input", "output"])
    grow_rows(grown, len(new), num_old_tokens=len(old))
    with torch.no_grad():
        grown.get_input_embeddings().weight[len(old) :] = rows["input"]
        grown.get_output_embeddings().weight[len(old) :] = rows["input" if request.param else "output"]
    return base, grown, mirror, encode(old, texts[0]), encode(new, cloner.text(texts[0]))


def test_over_its_own_vocabulary_the_clone_costs_what_english_costs(arms):
    base, grown, mirror, english, clone = arms
    assert len(english) == len(clone) and english != clone
    log_TV = log_probabilities(grown, clone)
    foreign = [piece.original for piece in mirror.pieces]
    log_TV[:, torch.tensor(foreign)] = -torch.inf
    found = cost(log_TV.log_softmax(dim=-1), clone)
    torch.testing.assert_close(found, cost(log_probabilities(base, english), english), atol=1e-5, rtol=0)


def test_over_the_whole_vocabulary_it_costs_the_mass_of_the_originals_more(arms):
    base, grown, mirror, english, clone = arms
    log_TV = log_probabilities(base, english)
    mass = log_TV[:, torch.tensor([piece.original for piece in mirror.pieces])].exp().sum(dim=-1)
    extra = torch.log2(1 + mass)
    assert extra.min() > 0 and extra.max() < 1, "some tokens are common to both languages"
    for ids in (english, clone):
        bits = (cost(log_probabilities(grown, ids), ids) - cost(log_TV, english)) / torch.log(torch.tensor(2.0))
        torch.testing.assert_close(bits, extra, atol=1e-5, rtol=0)


def test_where_every_token_has_a_clone_it_is_one_bit(arms):
    """Tokens without a clone are made impossible in the base, so the originals have all the mass."""
    base, grown, mirror, english, clone = arms
    originals = torch.tensor([piece.original for piece in mirror.pieces])
    own = [(a, b) for a, b in zip(english, clone, strict=True) if a in originals]
    a, b = [pair[0] for pair in own], [pair[1] for pair in own]
    outside = torch.ones(base.config.vocab_size, dtype=torch.bool)
    outside[originals] = False
    log_base, log_grown = log_probabilities(base, a), log_probabilities(grown, b)
    log_base[:, outside] = -torch.inf
    log_grown[:, torch.nn.functional.pad(outside, (0, len(mirror.pieces)))] = -torch.inf
    bits = (cost(log_grown.log_softmax(-1), b) - cost(log_base.log_softmax(-1), a)) / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(bits, torch.ones_like(bits), atol=1e-5, rtol=0)


def test_parts_of_letters_get_the_mean(tmp_path: Path):
    model = make_model(20)
    oracle_rows(model, [3, None], tmp_path / "rows.safetensors")
    rows = load_file(tmp_path / "rows.safetensors")["input"]
    weight = model.get_input_embeddings().weight.detach()
    assert torch.equal(rows[0], weight[3]) and torch.allclose(rows[1], weight.mean(dim=0))


def test_the_folder_carries_the_rows(clone_folder: Path, base_folder: Path):
    rows = load_file(clone_folder / "oracle.safetensors")["input"]
    lines = (clone_folder / "pieces.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(lines) == len(rows) == json.loads((clone_folder / "report.json").read_text())["new_tokens"]
    weight = load_file(base_folder / "model.safetensors")["model.embed_tokens.weight"]
    number, original, *_ = lines[7].split("\t")
    assert torch.equal(rows[7], weight[int(original)]) and int(number) == len(weight) + 7
    assert len(read_questions(clone_folder / "clka.jsonl")) == 48


def test_a_question_is_answered_alike_in_both_languages(clone_folder: Path, base_folder: Path):
    """Where the rows are equal nothing but the rows could keep a fact in one language."""
    old, new = load_tokenizer(base_folder), AutoTokenizer.from_pretrained(clone_folder / "tokenizer")
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    grow_rows(model, len(new), num_old_tokens=len(old))
    with torch.no_grad():
        model.get_input_embeddings().weight[len(old) :] = load_file(clone_folder / "oracle.safetensors")["input"]
        for weight in model.model.layers.parameters():
            weight.mul_(4 if weight.ndim == 2 else 1)  # else an answer hardly hangs on the question
    questions = read_questions(clone_folder / "clka.jsonl")
    assert _apart(answer_ranks(model, new, questions, START_ID)) == 0
    with torch.no_grad():
        model.get_input_embeddings().weight[len(old) :].add_(torch.randn(model.config.hidden_size))
    assert _apart(answer_ranks(model, new, questions, START_ID)) > 3


def _apart(ranks: dict[tuple[str, str], list[float]]) -> float:
    """The largest difference between the ranks of an answer in the two languages."""
    groups = ("both", "clone_only", "english_only", "none")
    pairs = (pair for name in groups for pair in zip(ranks[name, "clone"], ranks[name, "english"], strict=True))
    return max(abs(clone - english) for clone, english in pairs)
