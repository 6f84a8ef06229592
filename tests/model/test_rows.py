"""Embedding rows after growth, on a tiny random model."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prealign_cpt.model.load import grow_rows


def tiny(rows: int, *, tied: bool, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).to(dtype)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "old", "new"), [(20, 20, 33), (64, 20, 33), (64, 20, 70), (20, 21, 33)])
def test_rows(tied: bool, dtype: torch.dtype, rows: int, old: int, new: int) -> None:
    model = tiny(rows, tied=tied, dtype=dtype)
    before = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    grow_rows(model, new, num_old_tokens=old)
    after = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    assert (after[0] is after[1]) == tied
    assert model.config.vocab_size == new
    for earlier, later in zip(before, after, strict=True):
        assert later.shape == (new, 8) and later.dtype == dtype
        kept = min(old, rows)  # an old token without a row gets the mean too
        assert torch.equal(later[:kept], earlier[:kept])
        mean = earlier[:kept].float().mean(dim=0).to(dtype)
        assert torch.equal(later[kept:], mean.expand(new - kept, 8))
    assert model(torch.tensor([[new - 1]])).logits.shape[-1] == new


@pytest.mark.parametrize(("rows", "tokens"), [(20, 20), (64, 20), (20, 21)])
def test_without_new_tokens_nothing_changes(rows: int, tokens: int) -> None:
    """Rows that pad the matrix stay, as every tool expects that reads the base; `vocab.size = 0` adds none."""
    model = tiny(rows, tied=True)
    before = model.get_input_embeddings().weight.detach().clone()
    grow_rows(model, tokens, num_old_tokens=tokens)
    assert torch.equal(model.get_input_embeddings().weight, before) and model.config.vocab_size == rows


def test_a_token_never_loses_its_row() -> None:
    with pytest.raises(ValueError, match="20 old tokens"):
        grow_rows(tiny(20, tied=True), 19, num_old_tokens=20)
