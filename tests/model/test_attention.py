"""Attention by documents against transformers' mask; the flash kernel is replaced by its definition on the CPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from prealign_cpt.data.mixture import positions
from prealign_cpt.model import loss
from prealign_cpt.model.loss import LanguageModelLoss, choose_attention, document_borders
from tests.conftest import make_model

VOCAB = 50


def plain_varlen(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, _: Tensor, longest: int, __: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """What `torch.nn.attention.varlen.varlen_attn` promises: [T, H, D] each, document by document."""
    assert borders.dtype == torch.int32 and window_size[1] == 0
    found = []
    for begin, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        assert 0 < end - begin <= longest
        q, k, v = (x[begin:end].transpose(0, 1) for x in (query, key, value))
        mask = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
        if window_size[0] >= 0:
            mask = mask.triu(-window_size[0])
        out = F.scaled_dot_product_attention(q[None], k[None], v[None], mask, scale=scale, enable_gqa=enable_gqa)
        found.append(out[0].transpose(0, 1))
    return torch.cat(found)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "varlen_attn", plain_varlen)


def batch() -> Tensor:
    inputs = torch.randint(1, VOCAB, (3, 20), generator=torch.Generator().manual_seed(0))
    inputs[0, [0, 8, 15]] = inputs[1, 5] = 0  # the second row begins inside a document, the third lies within one
    return inputs


def both(model: Any) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Losses and gradients under transformers' mask and under `attend_documents`."""
    found = []
    for form in ("sdpa", loss.DOCUMENTS):
        model.set_attn_implementation(form)
        module = LanguageModelLoss(model)
        model.zero_grad()
        inputs = batch()
        module(inputs, inputs, positions(inputs, 0)).backward()
        with torch.no_grad():
            each = module(inputs, inputs, positions(inputs, 0), each=True)
        found.append((each, {n: p.grad.clone() for n, p in model.named_parameters()}))
    return found


def test_borders_are_where_positions_restart() -> None:
    inputs = torch.tensor([[0, 5, 0, 7], [5, 6, 7, 0]])
    assert document_borders(positions(inputs, 0)).tolist() == [0, 2, 4, 7, 8]
    assert document_borders(positions(inputs, 0)).dtype == torch.int32


def small_window() -> MistralForCausalLM:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=3, initializer_range=0.2,
    )  # fmt: skip
    return MistralForCausalLM(config)


@pytest.mark.parametrize("make", [lambda: make_model(VOCAB), small_window], ids=["llama", "sliding window"])
def test_both_forms_give_the_same_losses_and_gradients(make: Any) -> None:
    (mask, mask_gradients), (documents, gradients) = both(make().train())
    torch.testing.assert_close(documents, mask, atol=1e-5, rtol=0)
    for name, value in mask_gradients.items():
        torch.testing.assert_close(gradients[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_documents_do_not_see_each_other() -> None:
    model = make_model(VOCAB)
    model.set_attn_implementation(loss.DOCUMENTS)
    module, inputs = LanguageModelLoss(model), batch()[:1]
    other = inputs.clone()
    other[:, 1:8] = 3
    labels = torch.full_like(inputs, -100)
    labels[:, 9:] = inputs[:, 9:]
    place = positions(inputs, 0)

    def losses(ids: Tensor, borders: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            return module(ids, labels, place, each=True, borders=borders)

    assert torch.equal(losses(inputs), losses(other))
    # The control: without the border between them the first document is seen.
    joined = torch.tensor([0, 20], dtype=torch.int32)
    assert (losses(inputs, joined) - losses(other, joined)).abs().max() > 1e-3


def test_flash_kernels_are_for_cuda_and_half_precision() -> None:
    assert choose_attention(torch.device("cuda", 0), "bf16") == loss.DOCUMENTS
    assert choose_attention(torch.device("cuda", 0), "fp32") == choose_attention(torch.device("cpu"), "bf16") == "sdpa"
