"""The chunked loss against the plain one, and documents that do not see each other."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prealign_cpt.model import loss
from prealign_cpt.model.loss import LanguageModelLoss, chunked_nll, summed_nll
from tests.conftest import make_model

VOCAB = 50


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def upto(length: int, rows: int = 1) -> Tensor:
    return torch.arange(length).expand(rows, length)


@pytest.mark.parametrize("num", [1, 7, 8, 23])
def test_chunks_change_neither_value_nor_gradient(monkeypatch: pytest.MonkeyPatch, num: int):
    monkeypatch.setattr(loss, "CHUNK", 8)
    torch.manual_seed(num)
    hidden, head = torch.randn(num, 16, requires_grad=True), torch.randn(VOCAB, 16, requires_grad=True)
    labels, weight = ids(num), torch.rand(num)
    found = chunked_nll(hidden, labels, head)
    gradients = torch.autograd.grad((found * weight).sum(), [hidden, head])
    expected = F.cross_entropy(hidden @ head.T, labels, reduction="none")
    plain = torch.autograd.grad((expected * weight).sum(), [hidden, head])
    assert found.dtype == torch.float32 and found.shape == (num,)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    for one, other in zip(gradients, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(chunked_nll(hidden, labels, head), expected.detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("learning", [True, False])
def test_the_logits_of_a_batch_never_exist_at_once(monkeypatch: pytest.MonkeyPatch, learning: bool):
    monkeypatch.setattr(loss, "CHUNK", 8)
    seen: list[int] = []
    plain = loss._chunk
    monkeypatch.setattr(loss, "_chunk", lambda hidden, *rest: (seen.append(len(hidden)), plain(hidden, *rest))[1])
    hidden = torch.randn(20, 16, requires_grad=True)
    with torch.set_grad_enabled(learning):
        found = chunked_nll(hidden, ids(20), torch.randn(VOCAB, 16))
    if learning:
        found.sum().backward()
    assert sorted(seen) == sorted([8, 8, 4] * (1 + learning)), "the backward pass makes them again"


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("num", [1, 7, 8, 23])
def test_the_sum_and_its_gradient_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch, num: int, weight: float):
    monkeypatch.setattr(loss, "CHUNK", 8)
    torch.manual_seed(num)
    hidden, head = torch.randn(num, 16, requires_grad=True), torch.randn(VOCAB, 16, requires_grad=True)
    labels, others = ids(num), ids(num, seed=1)
    labels[1::4] = -100
    found = summed_nll(hidden, labels, head, others, weight) / num
    gradients = torch.autograd.grad(found, [hidden, head])
    kept, logits = labels != -100, hidden @ head.T
    expected = (1 - weight) * F.cross_entropy(logits[kept], labels[kept], reduction="sum") / num
    expected = expected + weight * F.cross_entropy(logits[kept], others[kept], reduction="sum") / num
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    for one, other in zip(gradients, torch.autograd.grad(expected, [hidden, head]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(summed_nll(hidden, labels, head, others, weight) / num, expected.detach())


def test_the_sum_computes_no_logits_twice_and_takes_a_frozen_head(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loss, "CHUNK", 8)
    seen: list[int] = []
    plain = loss._value_and_slope
    monkeypatch.setattr(loss, "_value_and_slope", lambda z, *rest: (seen.append(len(z)), plain(z, *rest))[1])
    hidden, labels = torch.randn(20, 16, requires_grad=True), ids(20)
    summed_nll(hidden, labels, torch.randn(VOCAB, 16), labels).backward()
    assert seen == [8, 8, 4] and hidden.grad is not None


def test_late_chunks_are_not_lost_in_the_gradient_of_a_bf16_head(monkeypatch: pytest.MonkeyPatch):
    """512 chunks pull a row the same way: in bf16 a sum stops to grow at 256 times its parts."""
    monkeypatch.setattr(loss, "CHUNK", 1)
    hidden = torch.ones(512, 2, dtype=torch.bfloat16, requires_grad=True)
    head = torch.zeros(4, 2, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.zeros(512, dtype=torch.long)
    summed_nll(hidden, labels, head, labels).backward()
    assert head.grad.dtype == torch.bfloat16
    torch.testing.assert_close(head.grad[0].float(), torch.full((2,), -0.75 * 512))
    head.grad = None
    chunked_nll(hidden, labels, head).sum().backward()
    assert head.grad[0, 0] > -0.75 * 512 * 0.9, "the control"


@pytest.mark.parametrize("tied", [True, False])
def test_equal_to_hugging_faces_loss(tied: bool):
    model = make_model(VOCAB, tied=tied)
    inputs = ids(3, 12)
    labels = inputs.clone()
    labels[0, 3:6] = -100
    labels[2, 9:] = -100
    found = LanguageModelLoss(model)(inputs, labels, upto(12, 3))
    found.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(inputs).logits[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    expected.backward()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_each_is_in_reading_order_and_adds_up():
    module = LanguageModelLoss(make_model(VOCAB))
    inputs = ids(2, 6)
    labels = inputs.clone()
    labels[0, 2] = -100
    with torch.no_grad():
        each = module(inputs, labels, upto(6, 2), each=True)
        logits = module.model(inputs).logits.log_softmax(dim=-1)
        expected = [
            -logits[b, t - 1, inputs[b, t]] for b in range(2) for t in range(1, 6) if (b, t) != (0, 2)
        ]  # fmt: skip
        torch.testing.assert_close(each, torch.stack(expected), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(each.sum(), module(inputs, labels, upto(6, 2)))


@pytest.mark.parametrize("rows", [1, 3])
def test_documents_do_not_see_each_other(rows: int):
    module = LanguageModelLoss(make_model(VOCAB))
    inputs = ids(rows, 20)
    inputs[:, 8] = 0
    other = inputs.clone()
    other[:, 1:8] = ids(rows, 7, seed=1)
    assert not torch.equal(inputs, other)
    restart = torch.cat([torch.arange(8), torch.arange(12)]).expand(rows, 20)
    second = torch.full((rows, 20), -100)
    second[:, 9:] = inputs[:, 9:]

    def losses(tokens: Tensor, positions: Tensor) -> Tensor:
        with torch.no_grad():
            return module(tokens, second, positions, each=True)

    torch.testing.assert_close(losses(inputs, restart), losses(other, restart), atol=1e-6, rtol=0)
    alone = module(inputs[:, 8:], inputs[:, 8:], upto(12, rows), each=True)
    torch.testing.assert_close(losses(inputs, restart), alone.detach(), atol=1e-5, rtol=1e-5)
    # The control: positions that run on let the first document through.
    assert (losses(inputs, upto(20, rows)) - losses(other, upto(20, rows))).abs().max() > 1e-3


def test_gradients_do_not_cross_documents():
    model = make_model(VOCAB, tied=False)
    inputs = torch.tensor([[0, *range(1, 8), 0, *range(11, 18)]])
    labels = inputs.clone()
    labels[:, :9] = -100
    LanguageModelLoss(model)(inputs, labels, torch.cat([torch.arange(8), torch.arange(8)])[None]).backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient[1:8].abs().max() == 0 and gradient[11:17].abs().min(dim=1).values.max() > 0


def test_right_padding_does_not_change_scores():
    module = LanguageModelLoss(make_model(VOCAB))
    inputs = ids(2, 9)
    padded = torch.zeros(2, 15, dtype=torch.long)
    labels = torch.full((2, 15), -100)
    padded[:, :9] = labels[:, :9] = inputs
    with torch.no_grad():
        short = module(inputs, inputs, upto(9, 2), each=True)
        long = module(padded, labels, upto(15, 2), each=True)
    torch.testing.assert_close(short, long, atol=1e-6, rtol=1e-6)


def test_the_first_column_is_not_learned():
    module = LanguageModelLoss(make_model(VOCAB))
    inputs = ids(1, 6)
    labels = inputs.clone()
    labels[:, 0] = 7
    with torch.no_grad():
        assert torch.equal(module(inputs, labels, upto(6)), module(inputs, inputs, upto(6)))


def test_nothing_to_learn_is_zero_with_zero_gradients():
    model = make_model(VOCAB)
    module = LanguageModelLoss(model)
    nothing = torch.full((2, 6), -100)
    found = module(ids(2, 6), nothing, upto(6, 2))
    found.backward()
    assert found.item() == 0.0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(bool((g == 0).all()) for g in gradients)
    assert module(ids(2, 6), nothing, upto(6, 2), each=True).shape == (0,)


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_soft_labels_share_out_the_target_probability(monkeypatch: pytest.MonkeyPatch, weight: float):
    """Cross-entropy against (1 - w) onehot(label) + w onehot(input), value and gradient."""
    monkeypatch.setattr(loss, "CHUNK", 4)
    model = make_model(VOCAB, tied=False)
    inputs = ids(2, 9)
    labels = inputs.clone()
    labels[0, 3], labels[0, 4:6], labels[1, 7] = 7, -100, 9  # two switched words
    module = LanguageModelLoss(model)
    module.soft_weight = weight
    found = module(inputs, labels, upto(9, 2), each=True)
    gradients = torch.autograd.grad(found.sum(), list(model.parameters()))
    log_p = model(inputs).logits[:, :-1].log_softmax(dim=-1)
    learned = labels[:, 1:] != -100
    target = (1 - weight) * F.one_hot(labels[:, 1:][learned], VOCAB) + weight * F.one_hot(inputs[:, 1:][learned], VOCAB)
    expected = -(target * log_p[learned]).sum(dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, torch.autograd.grad(expected.sum(), list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    module.soft_weight = 0.0
    with torch.no_grad():
        hard = module(inputs, labels, upto(9, 2), each=True)
    changed = (found.detach() - hard).abs() > 1e-4
    assert changed.nonzero().flatten().tolist() == [2, 12], "hard and soft differ where switched words begin"


def test_soft_labels_change_nothing_where_nothing_is_switched():
    module = LanguageModelLoss(make_model(VOCAB))
    inputs = ids(2, 9)
    with torch.no_grad():
        hard = module(inputs, inputs, upto(9, 2), each=True)
        module.soft_weight = 0.3
        torch.testing.assert_close(module(inputs, inputs, upto(9, 2), each=True), hard, atol=1e-6, rtol=1e-6)


def test_the_number_of_targets_is_not_rounded_to_bf16():
    """1/1027 in bf16 is off by 0.2 %, in every gradient alike, which no mean over steps takes away."""
    gradients = []
    for targets in (1, 1027):
        hidden, head = (
            torch.randn(size, 32, generator=torch.Generator().manual_seed(size)).bfloat16().requires_grad_()
            for size in (16, VOCAB)
        )
        labels = ids(16)
        (summed_nll(hidden, labels, head, labels) / targets).backward()
        gradients.append((hidden.grad, head.grad))
    for whole, part in zip(*gradients, strict=True):
        assert whole is not None and part is not None
        assert torch.equal(part, (whole.float() * (torch.tensor(1.0) / 1027)).bfloat16())
