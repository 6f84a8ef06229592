"""The alignment stage: base model and grown tokenizer in, a model with aligned new rows out.

base ─► rows grown ─► static rows ─► contrastive stage ─► Hugging Face folder, report.json, rows.tsv
scores:  base   mean        static              aligned        (English bits per byte gate at the end)
"""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.rows import StaticRows, static_rows
from prealign_cpt.align.stage import WINDOW, english_anchor, target_windows, train_rows
from prealign_cpt.data.codeswitch import token_texts
from prealign_cpt.data.pack import encode
from prealign_cpt.data.text import read_documents
from prealign_cpt.errors import NumericError
from prealign_cpt.evaluate.scores import score_all, score_texts, start_token_id
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.manifest import atomic_write
from prealign_cpt.recipe import Recipe
from prealign_cpt.run import say
from prealign_cpt.vocab.rows import grow_rows

ANCHOR_POSITIONS = 8_192
"""Positions of English text in the anchor: their hidden states take this many rows of the hidden size in fp32."""

TARGET_DOCUMENTS = 20_000
"""Documents of target text that the windows are taken from."""


def build_align(
    recipe: Recipe,
    base: Path,
    vocab: Path,
    train: list[Pair],
    heldout: list[Pair],
    device: torch.device,
    out: Path,
) -> None:
    """Fill `out` with the aligned model, its tokenizer and `report.json`.

    Args:
        base: Hugging Face folder of the base model.
        vocab: folder of the grown tokenizer.
        train, heldout: the split lexicon.

    Raises:
        NumericError: a row of the base is not finite, or English bits per byte rose by more than the recipe allows.
    """
    base_tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(vocab, local_files_only=True)
    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, local_files_only=True
    ).to(device)
    model.eval()
    _check_finite(model)
    arms: dict[str, Any] = {}

    def score_arm(name: str, with_tokenizer: PreTrainedTokenizerBase) -> None:
        if recipe.evaluate.arms:
            arms[name] = score_all(model, with_tokenizer, recipe, train, heldout)
            say(f"align: {name}: {_line(arms[name])}")

    before = score_texts(model, base_tokenizer, recipe, ("valid",))["valid"]["english_bpb"]
    score_arm("base", base_tokenizer)
    num_old, num_new = len(base_tokenizer), len(tokenizer)
    new_ids = list(range(num_old, num_new))
    grow_rows(model, num_new, num_old_tokens=num_old)
    texts = token_texts(tokenizer)[num_old:]
    tables = _tables(model, num_old)
    if new_ids and recipe.align.init != "mean":
        score_arm("mean", tokenizer)
    rows = static_rows(
        recipe.align.init, texts, base_tokenizer, train, *tables, recipe.align.lexicon_weight, recipe.align.shrink
    )
    _write_rows(model, new_ids, rows)
    if new_ids:
        score_arm("mean" if recipe.align.init == "mean" else "static", tokenizer)
    curve: list[dict[str, float]] = []
    done: dict[str, Any] = {"steps": 0}
    if new_ids and recipe.align.steps:
        start = start_token_id(tokenizer, recipe)
        english = (ids.tolist() for ids in encode(read_documents(recipe.paths(recipe.text.english)), tokenizer))
        anchor = (
            english_anchor(model, num_old, english, start, ANCHOR_POSITIONS) if recipe.align.anchor_tokens else None
        )
        documents = islice(read_documents(recipe.paths(recipe.text.target)), TARGET_DOCUMENTS)
        wanted = recipe.align.steps * recipe.align.target_tokens // WINDOW
        text = target_windows((x.tolist() for x in encode(documents, tokenizer)), start, wanted, recipe.seed)
        done = train_rows(
            model, tokenizer, new_ids, train, anchor, text, recipe.align, start, recipe.seed, curve.append
        )
        score_arm("aligned", tokenizer)
    after = score_texts(model, tokenizer, recipe, ("valid",))["valid"]["english_bpb"]
    report = {
        "new_tokens": len(new_ids),
        "rows": {kind: rows.provenance.count(kind) for kind in sorted(set(rows.provenance))},
        "arms": arms,
        "contrast": curve,
        "contrast_stage": done,
        "english_gate": {"before": before, "after": after, "limit": recipe.align.max_english_increase},
    }
    if not after - before <= recipe.align.max_english_increase:
        raise NumericError(
            f"align: English bits per byte rose from {before} to {after}, more than align.max_english_increase "
            f"({recipe.align.max_english_increase}); lower align.shrink or align.lr, or raise the limit"
        )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    atomic_write(out / "report.json", json.dumps(report, indent=1))
    lines = [f"{i}\t{text!r}\t{kind}" for i, text, kind in zip(new_ids, texts, rows.provenance, strict=True)]
    atomic_write(out / "rows.tsv", "\n".join(["id\ttext\trow", *lines]) + "\n")


def _tables(model: PreTrainedModel, num_old: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The old tokens' input rows and, if the head is not tied, output rows; fp32 on the CPU."""
    inputs = model.get_input_embeddings().weight
    outputs = model.get_output_embeddings().weight
    return (
        inputs.detach()[:num_old].float().cpu(),
        None if outputs is inputs else outputs.detach()[:num_old].float().cpu(),
    )


@torch.no_grad()
def _write_rows(model: PreTrainedModel, new_ids: list[int], rows: StaticRows) -> None:
    ids = torch.tensor(new_ids, dtype=torch.long)
    for weight, values in (
        (model.get_input_embeddings().weight, rows.input_MD),
        (model.get_output_embeddings().weight, rows.output_MD),
    ):
        weight[ids.to(weight.device)] = values.to(weight)


def _check_finite(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        finite = torch.isfinite(parameter).flatten(1).all(dim=1) if parameter.ndim > 1 else torch.isfinite(parameter)
        if not finite.all():
            bad = (~finite).nonzero().flatten()[:5].tolist()
            raise NumericError(f"base.model: {name} is not finite in rows {bad}; use another copy of the model")


def _line(scores: dict[str, Any]) -> str:
    test = scores["test"]
    words = f", held-out words P@1 {scores['retrieval']['p1']:.3f}" if "retrieval" in scores else ""
    return f"target {test['target_bpb']:.3f}, English {test['english_bpb']:.3f} bits per byte{words}"
