"""The oracle: with the rows of its originals, clone text costs what is known exactly."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from prealign_cpt.align.contrast import contrastive_loss, relations
from prealign_cpt.evaluate.clka import answer_ranks
from prealign_cpt.evaluate.data import read_questions
from prealign_cpt.lab.clone.build import oracle_rows
from prealign_cpt.lab.clone.tokenizer import Cloner, make_cloner, mirror_tokenizer
from prealign_cpt.model.load import grow_rows
from prealign_cpt.model.tokens import encode_text
from prealign_cpt.model.vectors import encode_words, vectors_of
from prealign_cpt.vocab.grow import load_tokenizer
from tests.conftest import ENGLISH, PAIRS, make_model

START_ID = 0


class Oracle(NamedTuple):
    """Base model, model with oracle rows, the ids of the originals, and a text in both languages."""

    base: LlamaForCausalLM
    grown: LlamaForCausalLM
    originals: Tensor
    english: list[int]
    clone: list[int]
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]
    cloner: Cloner


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def oracle(request, tmp_path_factory, base_folder: Path) -> Oracle:
    folder = tmp_path_factory.mktemp("oracle")
    texts = [f"{ENGLISH[0]} 12, 34; {ENGLISH[3]}", *ENGLISH]
    cloner = make_cloner(base_folder, texts)
    mirror = mirror_tokenizer(base_folder, cloner, texts, 0, folder / "tokenizer")
    originals = [token.original for token in mirror.new_tokens]
    old, new = load_tokenizer(base_folder), load_tokenizer(folder / "tokenizer")
    base, grown = make_model(len(old), tied=request.param), make_model(len(old), tied=request.param)
    rows = oracle_rows(base, originals)
    assert sorted(rows) == (["input"] if request.param else ["input", "output"])
    grow_rows(grown, len(new), num_old_tokens=len(old))
    with torch.no_grad():
        grown.get_input_embeddings().weight[len(old) :] = rows["input"]
        grown.get_output_embeddings().weight[len(old) :] = rows["input" if request.param else "output"]
    ids = encode_text(old, texts[0]), encode_text(new, cloner.text(texts[0]))
    return Oracle(base, grown, torch.tensor(originals), *ids, (old, new), cloner)


def log_probabilities(model: LlamaForCausalLM, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([[START_ID, *ids]])).logits[0, :-1].double().log_softmax(dim=-1)


def cost(log_TV: Tensor, ids: list[int]) -> Tensor:
    return -log_TV[torch.arange(len(ids)), torch.tensor(ids)]


def extra_bits(oracle: Oracle, ids: list[int]) -> Tensor:
    """What each token of a text costs more than in English."""
    english = cost(log_probabilities(oracle.base, oracle.english), oracle.english)
    return (cost(log_probabilities(oracle.grown, ids), ids) - english) / torch.log(torch.tensor(2.0))


def test_over_its_own_vocabulary_the_clone_costs_what_english_costs(oracle: Oracle):
    english, clone = oracle.english, oracle.clone
    assert len(english) == len(clone) and english != clone
    log_TV = log_probabilities(oracle.grown, clone)
    log_TV[:, oracle.originals] = -torch.inf
    expected = cost(log_probabilities(oracle.base, english), english)
    torch.testing.assert_close(cost(log_TV.log_softmax(dim=-1), clone), expected, atol=1e-5, rtol=0)


def test_over_the_whole_vocabulary_it_costs_the_mass_of_the_originals_more(oracle: Oracle):
    mass = log_probabilities(oracle.base, oracle.english)[:, oracle.originals].exp().sum(dim=-1)
    extra = torch.log2(1 + mass)
    assert extra.min() > 0 and extra.max() < 1, "some tokens are common to both languages"
    both = list(zip(oracle.english, oracle.clone, strict=True))
    switched = [pair[i % 3 == 0] for i, pair in enumerate(both)]
    for ids in (oracle.english, oracle.clone, switched):
        torch.testing.assert_close(extra_bits(oracle, ids), extra, atol=1e-5, rtol=0)
    weight = oracle.grown.get_input_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[oracle.clone[2]] += 1.0
        found = extra_bits(oracle, oracle.clone)
        weight.copy_(kept)
    assert (found - extra).abs().max() > 1e-3, "a wrong row is noticed"


def test_where_every_token_has_a_clone_it_is_one_bit(oracle: Oracle):
    """Tokens without a clone are made impossible in the base, so the originals have all the mass."""
    pairs = [pair for pair in zip(oracle.english, oracle.clone, strict=True) if pair[0] in oracle.originals]
    english, clone = map(list, zip(*pairs, strict=True))
    outside = torch.ones(oracle.base.config.vocab_size, dtype=torch.bool)
    outside[oracle.originals] = False
    log_base, log_grown = log_probabilities(oracle.base, english), log_probabilities(oracle.grown, clone)
    log_base[:, outside] = -torch.inf
    log_grown[:, torch.nn.functional.pad(outside, (0, len(oracle.originals)))] = -torch.inf
    nats = cost(log_grown.log_softmax(-1), clone) - cost(log_base.log_softmax(-1), english)
    bits = nats / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(bits, torch.ones_like(bits), atol=1e-5, rtol=0)


def test_words_and_their_clones_have_the_same_vectors(oracle: Oracle):
    """The contrastive loss of perfect rows is far below that of shuffled ones, at every layer."""
    old, new = oracle.tokenizers
    words = sorted({source for source, _ in PAIRS} & set(" ".join(ENGLISH).replace(".", "").split()))
    vectors = vectors_of(oracle.grown, encode_words(old, words), START_ID)
    clones = vectors_of(oracle.grown, encode_words(new, [oracle.cloner.text(word) for word in words]), START_ID)
    torch.testing.assert_close(vectors, clones, atol=1e-6, rtol=1e-5)

    def loss(target: Tensor) -> float:
        centre = vectors.mean(dim=1, keepdim=True)
        both = torch.stack([vectors - centre, target - centre], dim=2).flatten(1, 2)
        names, groups = [f"{side}:{w}" for w in words for side in "et"], [w for w in words for _ in "et"]
        positive, excluded = relations(names, groups, list(range(len(names))), {})
        return float(contrastive_loss(both, both, positive, excluded, 0.1))

    assert loss(clones) < 0.5 * loss(clones.roll(1, dims=1))


def test_parts_of_letters_get_the_mean():
    model = make_model(20)
    rows = oracle_rows(model, [3, None])["input"]
    weight = model.get_input_embeddings().weight.detach()
    assert torch.equal(rows[0], weight[3]) and torch.allclose(rows[1], weight.mean(dim=0))


def test_the_folder_carries_the_rows(clone_folder: Path, base_folder: Path):
    rows = load_file(clone_folder / "oracle.safetensors")["input"]
    lines = (clone_folder / "tokens.tsv").read_text(encoding="utf-8").splitlines()[1:]
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
