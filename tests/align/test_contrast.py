"""The contrastive loss against values by hand and a slow loop."""

import math

import pytest
import torch
from torch import Tensor

from prealign_cpt.align.contrast import contrastive_loss, relations


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
    positive, excluded = relations(entries, {})
    found = float(contrastive_loss(vectors, vectors, positive, excluded, 0.05))
    assert found == pytest.approx(math.log(count), abs=1e-6)


def test_the_anchor_is_not_in_its_own_denominator():
    vectors = torch.eye(4)[None]  # nothing is alike but each word to itself
    positive, excluded = relations([["a", "A"], ["b", "B"]], {})
    found = float(contrastive_loss(vectors, vectors, positive, excluded, 0.1))
    assert found == pytest.approx(math.log(3), abs=1e-6)  # with itself: log(3 + e^10)


def test_excluded_pairs_do_not_count():
    torch.manual_seed(0)
    vectors = torch.randn(2, 6, 5)
    positive, excluded = relations([["a", "A"], ["b", "B"], ["c", "C"]], {})
    before = contrastive_loss(vectors, vectors, positive, excluded, 0.1)
    excluded[:, 4:] = True
    excluded[4:] = ~positive[4:]
    kept = contrastive_loss(vectors[:, :4], vectors, positive[:4], excluded[:4], 0.1)
    moved = vectors.clone()
    moved[:, 4:] = torch.randn(2, 2, 5)
    assert float(kept) != pytest.approx(float(before))
    assert float(contrastive_loss(moved[:, :4], moved, positive[:4], excluded[:4], 0.1)) == float(kept)


def test_length_of_a_vector_does_not_matter():
    torch.manual_seed(0)
    vectors = torch.randn(2, 6, 5)
    positive, excluded = relations([["a", "A"], ["b", "B"], ["c", "C"]], {})
    scaled = vectors * torch.rand(2, 6, 1).add(0.5)
    torch.testing.assert_close(
        contrastive_loss(vectors, vectors, positive, excluded, 0.1),
        contrastive_loss(scaled, scaled, positive, excluded, 0.1),
    )


def test_half_precision_is_widened():
    torch.manual_seed(0)
    vectors = torch.randn(2, 6, 5, dtype=torch.bfloat16)
    positive, excluded = relations([["a", "A"], ["b", "B"], ["c", "C"]], {})
    found = contrastive_loss(vectors, vectors, positive, excluded, 0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, contrastive_loss(vectors.float(), vectors.float(), positive, excluded, 0.1))


def test_relations():
    # house: Haus, Gebäude; building: Bau (also: Gebäude, elsewhere in the lexicon); die (English); die (German)
    entries = [["e:house", "t:Haus", "t:Gebäude"], ["e:building", "t:Bau"], ["e:the", "t:die"], ["e:die", "t:sterben"]]
    connected = {"e:building": {"t:Bau", "t:Gebäude", "e:house"}, "t:Gebäude": {"e:house", "e:building"}}
    words = [word for entry in entries for word in entry]
    positive, excluded = relations(entries, connected)

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
    positive, excluded = relations([["e:house", "t:Haus"], ["e:home", "t:Haus"]], {})
    assert excluded[1].tolist() == [False, True, False, True] and positive[1].tolist() == [True, False, False, False]
