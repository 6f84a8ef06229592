"""The contrastive loss against values by hand and a slow loop, and the term around it."""

import math

import pytest
import torch
from torch import Tensor

from prealign_cpt.align.contrast import Contrast, contrastive_loss, relations
from prealign_cpt.align.trainable import NewRows
from prealign_cpt.align.units import Graph, Group, Unit, batches, connections, word_groups
from prealign_cpt.lab.objectives import contrasts
from prealign_cpt.lab.objectives.contrasts import OneDirection, Queue
from prealign_cpt.lexicon.pairs import Pair
from tests.align.conftest import ALONE, LEXICON, matmul_weights, model_for


def related(entries: list[list[str]], connected: Graph | None = None) -> tuple[Tensor, Tensor]:
    """`relations` of entries laid end to end, all of them anchors."""
    names = [word for entry in entries for word in entry]
    groups = [i for i, entry in enumerate(entries) for _ in entry]
    return relations(names, groups, list(range(len(names))), connected or {})


def by_hand(anchors: Tensor, candidates: Tensor, positive: Tensor, excluded: Tensor, tau: float) -> float:
    """The definition, one number at a time."""
    terms = []
    for a_layer, c_layer in zip(anchors.double(), candidates.double(), strict=True):
        a_layer = a_layer / a_layer.norm(dim=1, keepdim=True)
        c_layer = c_layer / c_layer.norm(dim=1, keepdim=True)
        for i, a in enumerate(a_layer):
            weights = [math.exp(float(a @ c) / tau) for c in c_layer]
            total = sum(w for j, w in enumerate(weights) if not excluded[i, j])
            terms += [-math.log(weights[j] / total) for j in range(len(weights)) if positive[i, j]]
    return sum(terms) / len(terms)


def test_two_anchors_by_hand():
    # Anchor 1 = (1, 0): positive (1, 0), negative (0, 1). Anchor 2 = (0, 1): positive (0.6, 0.8), negative (1, 0).
    anchors = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    candidates = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]]])
    positive = torch.tensor([[True, False, False], [False, True, False]])
    excluded = torch.tensor([[False, True, False], [False, False, True]])
    first = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(0)))
    second = -math.log(math.exp(0.8 / 0.5) / (math.exp(0) + math.exp(0.8 / 0.5)))
    found = contrastive_loss(anchors, candidates, positive, excluded, 0.5)
    assert float(found) == pytest.approx((first + second) / 2, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_a_loop(seed: int):
    torch.manual_seed(seed)
    num_layers, num_words = 4, 9
    vectors = torch.randn(num_layers, num_words, 6, requires_grad=True)
    itself = torch.eye(num_words, dtype=torch.bool)
    positive = (torch.rand(num_words, num_words) < 0.2) & ~itself
    excluded = ((torch.rand(num_words, num_words) < 0.2) & ~positive) | itself
    positive[3] = False  # an anchor without a translation in the batch
    excluded[4] = ~positive[4]  # one without a negative
    found = contrastive_loss(vectors, vectors, positive, excluded, 0.1)
    assert float(found.detach()) == pytest.approx(
        by_hand(vectors.detach(), vectors.detach(), positive, excluded, 0.1), rel=1e-5
    )
    found.backward()
    assert torch.isfinite(vectors.grad).all() and vectors.grad.abs().sum() > 0


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_floor_is_the_logarithm_of_the_positives(count: int):
    vectors = torch.eye(8).repeat_interleave(count + 1, dim=0)[None]  # entries at right angles, words of one alike
    entries = [[f"{i}:{k}" for k in range(count + 1)] for i in range(8)]
    positive, excluded = related(entries)
    found = float(contrastive_loss(vectors, vectors, positive, excluded, 0.05))
    assert found == pytest.approx(math.log(count), abs=1e-6)


def test_the_anchor_is_not_in_its_own_denominator():
    vectors = torch.eye(4)[None]  # nothing is alike but each word to itself
    positive, excluded = related([["a", "A"], ["b", "B"]])
    found = float(contrastive_loss(vectors, vectors, positive, excluded, 0.1))
    assert found == pytest.approx(math.log(3), abs=1e-6)  # with itself: log(3 + e^10)


def test_relations():
    # house: Haus, Gebäude; building: Bau (also: Gebäude, elsewhere in the lexicon); die (English); die (German)
    entries = [["e:house", "t:Haus", "t:Gebäude"], ["e:building", "t:Bau"], ["e:the", "t:die"], ["e:die", "t:sterben"]]
    connected = {"e:building": {"t:Bau", "t:Gebäude", "e:house"}, "t:Gebäude": {"e:house", "e:building"}}
    words = [word for entry in entries for word in entry]
    positive, excluded = related(entries, connected)

    def marked(mask: Tensor, word: str) -> set[str]:
        return {other for other, true in zip(words, mask[words.index(word)].tolist(), strict=True) if true}

    assert marked(positive, "e:house") == {"t:Haus", "t:Gebäude"}
    assert marked(positive, "t:Haus") == {"e:house", "t:Gebäude"}
    assert marked(excluded, "e:house") == {"e:house"}
    assert marked(excluded, "e:building") == {"e:building", "t:Gebäude", "e:house"}
    assert marked(excluded, "t:Gebäude") == {"t:Gebäude", "e:building"}, "of one entry: positive, not excluded"
    assert marked(excluded, "e:die") == {"e:die"} and marked(excluded, "t:die") == {"t:die"}
    assert not (positive & excluded).any()


def test_one_word_in_two_entries_is_no_negative_of_itself():
    positive, excluded = related([["e:house", "t:Haus"], ["e:home", "t:Haus"]])
    assert excluded[1].tolist() == [False, True, False, True] and positive[1].tolist() == [True, False, False, False]


def test_candidates_without_a_group_are_nobodys_translation():
    positive, excluded = relations(["e:a", "t:A", "e:b", "e:a"], [7, 7, None, None], [0, 1], {})
    assert positive.tolist() == [[False, True, False, False], [True, False, False, False]]
    assert excluded.tolist() == [[True, False, False, True], [False, True, False, False]]


def test_connections_reach_two_steps():
    found = connections([Pair("house", "Haus"), Pair("home", "Haus"), Pair("home", "Heim"), Pair("die", "die")])
    assert found["e:house"] == {"t:Haus", "e:house", "e:home"}
    assert found["t:Haus"] == {"e:house", "e:home", "t:Haus", "t:Heim"}
    assert found["e:die"] == {"t:die", "e:die"}


def test_perfect_alignment_of_orthogonal_words_costs_nothing():
    """64 pairs, 1024 dimensions, tau 0.1 give 0.0060; with an unmasked self-pair it is log 2."""
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(64, 1024), dim=1).repeat_interleave(2, dim=0)[None]
    positive, excluded = related([[f"e:{i}", f"t:{i}"] for i in range(64)])
    assert float(contrastive_loss(vectors, vectors, positive, excluded, 0.1)) == pytest.approx(0.0060, abs=5e-4)
    unmasked = excluded & ~torch.eye(128, dtype=torch.bool)
    assert float(contrastive_loss(vectors, vectors, positive, unmasked, 0.1)) == pytest.approx(math.log(2), abs=0.01)


def value(loss: Tensor) -> float:
    return float(loss.detach())


def unit(name: str, *ids: int) -> Unit:
    return Unit(name, ids, (0, len(ids)))


def term(
    grown, num_old: int, drawn: list[list[Group]], connected: Graph | None = None, tied=True, kind=Contrast
) -> Contrast:
    return kind(NewRows(model_for(grown, tied), 0, num_old), drawn, connected or {}, 0.1, ALONE)


def batch(num_old: int, *numbers: int) -> list[Group]:
    return [Group(unit(f"e:{i}", 20 + i, 60 + i), (unit(f"t:{i}", num_old + i),)) for i in numbers]


def test_the_queue_is_the_earlier_batches(grown, num_old: int, monkeypatch: pytest.MonkeyPatch):
    """With two steps' words in one batch the anchors of the second step see the same candidates."""
    first, second = batch(num_old, 0, 1), batch(num_old, 2, 3)
    queued = term(grown, num_old, [first, second], kind=Queue)
    plain = term(grown, num_old, [first, second])
    assert value(queued.loss(0)) == value(plain.loss(0))
    with_queue, without = value(queued.loss(1)), value(plain.loss(1))
    assert with_queue > without + 1e-3
    monkeypatch.setattr(contrasts, "QUEUE", 3)
    short = term(grown, num_old, [first, second], kind=Queue)
    short.loss(0)
    assert without < value(short.loss(1)) < with_queue
    queued.loss(1).backward()
    touched = queued._model.rows.grad.abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == [2, 3], "no gradient into the queue"


def test_false_negatives_in_the_queue_are_masked(grown, num_old: int):
    first, second = batch(num_old, 0, 1), batch(num_old, 2, 3)
    linked = {f"{side}:{i}": {f"{s}:{j}" for s in "et" for j in (0, 1)} for side in "et" for i in (2, 3)}
    queued = term(grown, num_old, [first, second], linked, kind=Queue)
    plain = term(grown, num_old, [first, second], linked)
    queued.loss(0)
    assert value(queued.loss(1)) == pytest.approx(value(plain.loss(1)), abs=1e-6)
    own = connections([Pair("0", "0")])
    again = term(grown, num_old, [first[:1], first[:1]], own, kind=Queue)  # a word is no negative of its earlier self
    assert value(again.loss(0)) == value(again.loss(1)) == pytest.approx(0.0, abs=1e-6)
    other = term(grown, num_old, [second[:1], first[:1]], own, kind=Queue)
    other.loss(0)
    assert value(other.loss(1)) > 0.1, "another one is"


def test_one_direction_means_english_anchors(grown, num_old: int):
    chosen = batch(num_old, 0, 1, 2)
    one = term(grown, num_old, [chosen], kind=OneDirection)
    vectors = one._vectors(chosen) - one._centre
    positive, excluded = relations([f"{s}:{i}" for i in range(3) for s in "et"], [0, 0, 1, 1, 2, 2], [0, 2, 4], {})
    expected = contrastive_loss(vectors[:, [0, 2, 4]], vectors, positive, excluded, 0.1)
    assert value(one.loss(0)) == pytest.approx(float(expected), abs=1e-6)
    assert value(one.loss(0)) != pytest.approx(value(term(grown, num_old, [chosen]).loss(0)), abs=1e-3)


def test_vectors_are_those_of_the_span_alone_in_its_sequence(grown, num_old: int):
    """Packed beside others, with a neighbour taken from the same run, against the plain model."""
    english = Unit("e:x", (20, 30, 40, 50), (2, 4), (("e:other", (0, 2)),))
    group = Group(english, (Unit("t:x", (20, 30, num_old + 1, 50), (2, 4)),))
    one = term(grown, num_old, [[group, *batch(num_old, 5, 6)]], tied=False)
    found = one._vectors([group])
    assert found.shape == (4, 3, 32), "embeddings, two blocks, the head's rows"
    model = model_for(grown, tied=False)
    with torch.no_grad():
        for place, (ids, (start, end)) in enumerate(
            [(english.ids, (2, 4)), (group.targets[0].ids, (2, 4)), (english.ids, (0, 2))]
        ):
            tokens = slice(start, end)
            states = model(torch.tensor([[0, *ids]]), output_hidden_states=True).hidden_states
            expected = [h[0, 1:][tokens].mean(dim=0) for h in states]
            expected.append(model.lm_head.weight[list(ids)][tokens].mean(dim=0))
            torch.testing.assert_close(found[:, place], torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_english_words_are_run_once(grown, num_old: int):
    same = batch(num_old, 0, 1, 2)
    one = term(grown, num_old, [same, same, same])
    weights = matmul_weights(one._model.model)
    once = one._model.flops
    assert once == 2 * weights * 3 * 3, "start token and two pieces of each, for the centre"
    one.loss(0)
    assert one._model.flops == once + 4 * weights * 3 * 2


def test_words(grown, num_old: int):
    groups = word_groups(
        grown, [Pair("cold", "kalt"), *LEXICON[:3], Pair("house", "kalt")], lambda ids: max(ids) >= num_old
    )
    assert [group.english.name for group in groups] == ["e:house", "e:water"], "`kalt` holds no new token"
    assert [unit.name for unit in groups[0].targets] == ["t:Haus", "t:Gebäude"]
    assert [unit.ids for unit in groups[0].targets] == [(num_old,), (num_old + 1,)]
    assert grown.decode(groups[1].english.ids) == " water" and groups[1].english.span == (0, len(groups[1].english.ids))


def test_batches(grown, num_old: int):
    items = [[group] for group in word_groups(grown, LEXICON, lambda ids: max(ids) >= num_old)]
    found = batches(items, 5, 4, seed=3)
    assert [len(batch) for batch in found] == [5] * 4 and found[0] != found[1]
    assert all(len({group.english.name for group in batch}) == 5 for batch in found)
    assert batches(items, 5, 2, seed=3) == found[:2] and batches(items, 5, 4, seed=4) != found
    assert [len(batch) for batch in batches(items, 100, 2, seed=0)] == [len(items)] * 2
