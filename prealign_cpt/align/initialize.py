"""The first half of the alignment: base model and grown tokenizer in, a model with static, calibrated new rows out.

base ─► English scored ─► rows grown, head untied ─► static rows ─► calibrated ─► Hugging Face folder and the rest:

    base_tokenizer/   the base's files but its weights
    pieces.json       for each new token, in the order of their ids, the old ids that spell it
    rows.tsv          for each new token its id, text and where its row comes from
    report.json       new_tokens, lexicon (how far it reaches them), rows, calibration, english_before
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.calibrate import calibrate
from prealign_cpt.align.lexicon_rows import SAMPLE_BYTES, TextStatistics, reach
from prealign_cpt.align.mixture import old_pieces
from prealign_cpt.align.rows import old_tables, static_rows, write_rows
from prealign_cpt.align.unrounded import save_unrounded
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.bits import Score, batches, score_windows, windows
from prealign_cpt.model.load import grow_rows, load_whole, reading_device, untie_head
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tensors import stored_dtypes
from prealign_cpt.model.tokens import PIECES, num_ids, start_token_id, token_texts
from prealign_cpt.recipe.schema import Align, Recipe
from prealign_cpt.run.errors import NumericError
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.text.stage import held_out_documents, training_sample

BASE_TOKENIZER = "base_tokenizer"

TOKENIZER_FILES = (".json", ".model", ".txt", ".jinja")
"""Copied as they are, the model's configuration included: by it transformers chooses the tokenizer's class."""


def build_init(recipe: Recipe, base: Path, vocab: Path, pairs: list[Pair], out: Path, device: torch.device) -> None:
    """Fill `out`, in this process alone.

    Args:
        base: Hugging Face folder of the base model.
        vocab: folder of the grown tokenizer.
        pairs: the training half of the lexicon.

    Raises:
        NumericError: a row of the base is not finite.
        DataError, MissingInputError: the lexicon, the text or the rows file cannot serve.
    """
    model = load_whole(base, run_dtype(recipe)).to(reading_device(base, run_dtype(recipe), device)).eval()
    base_tokenizer, tokenizer = (AutoTokenizer.from_pretrained(f, local_files_only=True) for f in (base, vocab))
    _check_finite(model)
    english = english_bits(model, base_tokenizer, recipe)
    num_old, num_tokens = num_ids(base_tokenizer), num_ids(tokenizer)
    texts = token_texts(tokenizer)[num_old:]
    added = grow(model, recipe.align, num_tokens, num_old)
    if added:
        size = added * model.dtype.itemsize
        say(f"align: the head is untied, each new token has two rows; {added:,} more parameters, {size / 1e6:,.0f} MB")
    statistics = TextStatistics(*(training_sample(recipe, side, SAMPLE_BYTES) for side in ("target", "english")))
    reached = reach(texts, pairs)
    if pairs and (warning := reached.warning()):
        say(f"align: {warning}")
    tables, file = old_tables(model, num_old), recipe.path(recipe.align.rows) if recipe.align.rows else None
    rows = static_rows(recipe.align, texts, base_tokenizer, tokenizer, pairs, *tables, statistics, file)
    write_rows(model, num_old, rows)
    pieces, start = old_pieces(texts, base_tokenizer, tokenizer), start_token_id(tokenizer, recipe)
    target, replay = statistics.target_text, statistics.english_text
    calibration = calibrate(
        model, base_tokenizer, tokenizer, pieces, target, replay, recipe.align.calibrate, start, recipe.seed
    )
    exact = model
    if stored_dtypes(base) != {model.dtype}:
        exact = load_whole(base)
        grow(exact, recipe.align, num_tokens, num_old)
    save_unrounded(model, exact.state_dict().__getitem__, tokenizer, out)
    (out / BASE_TOKENIZER).mkdir()
    for path in base.iterdir():
        if path.suffix in TOKENIZER_FILES and path.is_file():
            shutil.copyfile(path, out / BASE_TOKENIZER / path.name)
    atomic_write(out / PIECES, json.dumps(pieces))
    lines = [
        f"{num_old + m}\t{text!r}\t{kind}" for m, (text, kind) in enumerate(zip(texts, rows.provenance, strict=True))
    ]
    atomic_write(out / "rows.tsv", "\n".join(["id\ttext\trow", *lines]) + "\n")
    report = {
        "new_tokens": len(texts),
        "lexicon": {**asdict(reached), "share": round(reached.listed / max(1, reached.tokens), 4)},
        "rows": {kind: rows.provenance.count(kind) for kind in sorted(set(rows.provenance))},
        "calibration": calibration,
        "english_before": english,
    }
    atomic_write(out / "report.json", json.dumps(report, indent=1))


def grow(model: PreTrainedModel, align: Align, num_tokens: int, num_old: int) -> int:
    """A row for each token and, if the recipe wants it and there are new tokens, a head that is not tied; in place.

    Returns:
        Parameters by which a head of its own has made the model grow.
    """
    grow_rows(model, num_tokens, num_old)
    unties = align.untie == "yes" or (align.untie == "auto" and align.init == "pieces")
    return untie_head(model) if unties and num_tokens > num_old else 0


def run_dtype(recipe: Recipe) -> torch.dtype:
    """The run's precision, in which both halves of the alignment compute."""
    return torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32


def english_bits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> float:
    """Bits per byte of the English validation text, to four digits."""
    limits = recipe.evaluate
    documents = held_out_documents(recipe, "valid", "english")
    texts = windows(documents, limits.window_bytes, limits.max_bytes)
    prepared = batches(texts, tokenizer, start_token_id(tokenizer, recipe), limits.batch_tokens)
    scored = score_windows(LanguageModelLoss(model), prepared, model.get_input_embeddings().weight.device)
    total = Score(sum(nats for nats, _ in scored), sum(size for _, size in scored), 0)
    return round(total.bits_per_byte, 4)


def _check_finite(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        finite = torch.isfinite(parameter).flatten(1).all(dim=1) if parameter.ndim > 1 else torch.isfinite(parameter)
        if not finite.all():
            bad = (~finite).nonzero().flatten()[:5].tolist()
            raise NumericError(f"base.model: {name} is not finite in rows {bad}; use another copy of the model")
