"""The training stage on a tiny model: what moves, what stays, and that it does what it is for."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prealign_cpt.align.language_model import WINDOW
from prealign_cpt.align.stage import OBJECTIVES
from prealign_cpt.run.errors import NumericError, RecipeError
from tests.align.conftest import LEXICON, NOTHING, NUM_NEW, encoded, matmul_weights, model_for, weights
from tests.conftest import ENGLISH, PAIRS

ALL_TERMS = ("--align.target_tokens", "128", "--align.anchor_tokens", "128")
TABLES = {"model.embed_tokens.weight", "lm_head.weight"}


def falls(figures: list[dict[str, float]], key: str, share: float) -> None:
    k = max(1, len(figures) // 5)
    early, late = (sum(row[key] for row in part) / k for part in (figures[:k], figures[-k:]))
    assert late < share * early, f"{key}: {early} to {late}"


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_new_rows_move(grown: Any, num_old: int, stage: Any, tied: bool):
    model = model_for(grown, tied)
    before = weights(model)
    flags = ("--align.steps", "30", "--align.words", "12", "--align.lr", "1e-2", "--align.weight", "1")
    done, figures = stage(model, *flags, "--align.anchor_tokens", "32", "--align.target_tokens", str(WINDOW))
    # `house` has two translations, so 18 target words belong to 17 entries.
    assert done["entries"] == NUM_NEW - 1 and done["steps"] == 30 and done["target_tokens"] == 30 * WINDOW
    after = weights(model)
    for name, value in before.items():
        if name in TABLES:
            assert torch.equal(after[name][:num_old], value[:num_old]), f"{name}: an old row moved"
            assert ((after[name][num_old:] - value[num_old:]).abs().amax(dim=1) > 1e-4).all(), f"{name}: a row stayed"
        else:
            assert torch.equal(after[name], value), name
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"]) == tied
    assert all(p.requires_grad for p in model.parameters()) and all(p.grad is None for p in model.parameters())
    assert [row["step"] for row in figures] == list(range(1, 31))
    falls(figures, "contrastive", 0.9)
    falls(figures, "target_text", 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("trains", "moved"),
    [
        ("embeddings", TABLES),
        ("all", TABLES | {"model.layers.0", "model.layers.1", "model.norm"}),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_what_trains_moves_and_nothing_else(
    grown: Any, stage: Any, trains: str, moved: set[str], tied: bool, dtype: torch.dtype
):
    model = model_for(grown, tied, dtype)
    before = weights(model)
    _, figures = stage(model, "--align.trains", trains, "--align.lr", "1e-2", *ALL_TERMS)
    assert set(figures[0]) == {"step", "contrastive", "anchor", "target_text"}
    for name, value in weights(model).items():
        same = torch.equal(value, before[name])
        assert same != any(name.startswith(part) for part in moved), name
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_one_seed_one_result(grown: Any, num_old: int, stage: Any):
    def rows(seed: int) -> Tensor:
        model = model_for(grown)
        stage(model, "--seed", str(seed), "--align.words", "4", "--align.steps", "2", *ALL_TERMS)
        return model.get_input_embeddings().weight.detach()[num_old:]

    assert torch.equal(rows(0), rows(0)) and not torch.equal(rows(0), rows(1))


def test_alignment_brings_translations_nearer(grown: Any, num_old: int, stage: Any):
    """Without any text, the embeddings of single-token pairs become alike; those of other pairs do not."""
    model = model_for(grown)

    def alike() -> tuple[float, float]:
        table = model.get_input_embeddings().weight.detach()
        words = encoded(grown, [f" {source}" for source, _ in PAIRS[:NUM_NEW]])
        english = torch.stack([table[ids].mean(dim=0) for ids in words])
        both = F.cosine_similarity(english[:, None], table[num_old:][None], dim=-1)
        return float(both.diagonal().mean()), float(both.mean())

    before = alike()
    flags = ("--align.weight", "1", "--align.steps", "40", "--align.words", "17", "--align.lr", "2e-2")
    stage(model, *NOTHING, *flags)
    after = alike()
    assert after[0] - after[1] > 0.2 + before[0] - before[1]


def test_tokens_and_bytes_are_counted(grown: Any, stage: Any):
    done, _ = stage(model_for(grown), *NOTHING, "--align.target_tokens", "256")
    # Behind a frozen body the gradient costs as much as the reading; N is the body's matrices and the head.
    weights = matmul_weights(model_for(grown))
    assert done["flops"] == 4 * weights * 3 * 256
    # A token of this text is about two bytes; the exact number is the decoded text's.
    assert 3 * 256 < done["target_bytes"] < 3 * 256 * 4
    one, _ = stage(
        model_for(grown), *NOTHING, "--align.anchor_tokens", "99", "--align.weight", "1", "--align.words", "2"
    )
    # The frozen anchor runs all English text once (4 texts, 8 times); words of a few tokens come on top.
    anchor = (sum(len(ids) + 1 for ids in encoded(grown, ENGLISH[:4])) * 8 - 1) // WINDOW * WINDOW
    assert 2 * weights * anchor < one["flops"] < 2 * weights * anchor + (2 + 4) * weights * 3 * 2 * 8
    assert one["target_bytes"] == 0


def test_nothing_to_move(grown: Any, stage: Any, capsys: pytest.CaptureFixture[str]):
    model = model_for(grown)
    before = weights(model)
    done, figures = stage(model, "--align.target_tokens", "0", pairs=LEXICON[NUM_NEW:])
    assert done["entries"] == done["steps"] == 0 and done["reason"] == "no translation contains a new token"
    assert not figures and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert capsys.readouterr().out.count("no translation contains a new token") == 1


def test_text_alone_trains_where_the_lexicon_cannot(grown: Any, stage: Any):
    done, figures = stage(model_for(grown), *ALL_TERMS, pairs=LEXICON[NUM_NEW:])
    assert done["steps"] == 3 and done["reason"] and set(figures[0]) == {"step", "anchor", "target_text"}


def test_a_tiny_lexicon_makes_smaller_batches(grown: Any, stage: Any, capsys: pytest.CaptureFixture[str]):
    done, figures = stage(model_for(grown), *NOTHING, "--align.weight", "1", pairs=LEXICON[:4])
    assert done["entries"] == 3 and len(figures) == 3 and all(math.isfinite(row["contrastive"]) for row in figures)
    assert capsys.readouterr().out.count("align: 3 units to contrast") == 1


@pytest.mark.parametrize("trains", ["new_rows", "all"])
def test_a_loss_that_is_not_finite(grown: Any, stage: Any, trains: str):
    model = model_for(grown)
    before = weights(model)
    flags = (*NOTHING, "--align.target_tokens", "128", "--align.lr", "1e30", "--align.trains", trains)
    with pytest.raises(NumericError, match=r"align\.lr.*step \d \(target_text\); lower align\.lr") as caught:
        stage(model, *flags, "--align.steps", "8")
    assert caught.value.exit_code == 79
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_weights_that_are_not_finite_after_the_last_step(grown: Any, stage: Any, monkeypatch: pytest.MonkeyPatch):
    model = model_for(grown)
    before = weights(model)

    def overflow(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    with pytest.raises(NumericError, match="not finite after the last step"):
        stage(model, "--align.steps", "1")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_objective_that_nobody_has_registered(grown: Any, stage: Any, monkeypatch: pytest.MonkeyPatch):
    model = model_for(grown)
    monkeypatch.delitem(OBJECTIVES, "veco")
    with pytest.raises(RecipeError, match=r"align\.objective: 'veco' belongs to the laboratory"):
        stage(model, "--align.objective", "veco")
    assert all(p.requires_grad for p in model.parameters())
