"""The alignment stage: base model and grown tokenizer in, a model with aligned new rows out.

base ─► rows grown ─► static rows, calibrated ─► training stage ─► Hugging Face folder, report.json, rows.tsv
scored: base                                                 aligned             (a gate on English bits per byte)
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.init import TextStatistics, calibrate, old_tables, static_rows, write_rows
from prealign_cpt.align.stage import check_stage, run_stage
from prealign_cpt.data.codeswitch import token_texts
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.bits import held_out, score
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tokens import num_ids, start_token_id
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import NumericError
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.run.signals import StoppedError
from prealign_cpt.text.reader import read_documents
from prealign_cpt.train.shard import World
from prealign_cpt.vocab.rows import grow_rows

INVITATION, FAILED = "align", "align failed"
"""Keys of the store: rank 0 calls the others to the training stage; one of them failed in it."""


def build_align(
    recipe: Recipe,
    base: Path,
    vocab: Path,
    train: list[Pair],
    heldout: list[Pair],
    device: torch.device,
    out: Path,
    world: World | None = None,
) -> None:
    """Fill `out` with the aligned model, its tokenizer and `report.json`.

    Args:
        base: Hugging Face folder of the base model.
        vocab: folder of the grown tokenizer.
        train, heldout: the split lexicon.
        world: of rank 0, if other ranks wait to `join_align` in the training stage.

    Raises:
        NumericError: a row of the base is not finite, or English bits per byte rose by more than the recipe allows.
        RecipeError, DataError: the training stage cannot do what the recipe asks of this model or text.
        StoppedError: another rank failed in the training stage.
    """
    model, base_tokenizer, tokenizer = _load(recipe, base, vocab, device)
    _check_finite(model)
    check_stage(recipe, model)
    before = _english_bits(model, base_tokenizer, recipe)
    num_old, num_tokens = num_ids(base_tokenizer), num_ids(tokenizer)
    new_ids = list(range(num_old, num_tokens))
    grow_rows(model, num_tokens, num_old)
    texts = token_texts(tokenizer)[num_old:]
    tables = old_tables(model, num_old)
    statistics = TextStatistics(
        [read_documents([path]) for path in recipe.paths(recipe.text.target)],
        [read_documents([path]) for path in recipe.paths(recipe.text.english)],
        recipe.seed,
    )
    rows_file = recipe.path(recipe.align.rows) if recipe.align.rows else None
    rows = static_rows(recipe.align, texts, base_tokenizer, tokenizer, train, *tables, statistics, rows_file)
    write_rows(model, new_ids, rows)
    calibration: dict[str, Any] = {"target_bytes": 0, "tokens_forward": 0}
    if new_ids and recipe.align.calibrate:
        calibration = calibrate(
            model,
            base_tokenizer,
            tokenizer,
            statistics.target_text,
            recipe.align.calibrate,
            start_token_id(tokenizer, recipe),
            recipe.seed,
        )
    curve: list[dict[str, float]] = []
    done: dict[str, Any] = {"steps": 0}
    if recipe.align.steps and (new_ids or recipe.align.trains != "new_rows"):
        done = _train_together(model, tokenizer, base_tokenizer, train, recipe, curve.append, (base, vocab), world)
    changed = bool(new_ids or done["steps"])
    after = _english_bits(model, tokenizer, recipe) if changed else before
    english = {"before": before, "after": after}
    report = {
        "new_tokens": len(new_ids),
        "rows": {kind: rows.provenance.count(kind) for kind in sorted(set(rows.provenance))},
        "calibration": calibration,
        "contrast": curve,
        "contrast_stage": done,
        "english_gate": english | {"limit": recipe.align.max_english_increase},
    }
    if not english["after"] - english["before"] <= recipe.align.max_english_increase:
        raise NumericError(
            f"align: English bits per byte rose from {english['before']} to {english['after']}, more than "
            f"align.max_english_increase ({recipe.align.max_english_increase}); lower align.shrink or align.lr, or "
            "raise the limit"
        )
    _unrounded(model, base, num_tokens, num_old).save_pretrained(out)
    tokenizer.save_pretrained(out)
    atomic_write(out / "report.json", json.dumps(report, indent=1))
    lines = [f"{i}\t{text!r}\t{kind}" for i, text, kind in zip(new_ids, texts, rows.provenance, strict=True)]
    atomic_write(out / "rows.tsv", "\n".join(["id\ttext\trow", *lines]) + "\n")


def join_align(recipe: Recipe, world: World) -> None:
    """What every rank but 0 does when rank 0 has set the key INVITATION: its part of the training stage."""
    try:
        folders = json.loads(world.store.get(INVITATION))
        model, base_tokenizer, tokenizer = _load(recipe, Path(folders["base"]), Path(folders["vocab"]), world.device)
        num_old = num_ids(base_tokenizer)
        grow_rows(model, num_ids(tokenizer), num_old)
        pairs = _share(model, num_old, None)
        run_stage(model, tokenizer, base_tokenizer, pairs, recipe, world=world)
    except BaseException as error:
        world.store.set(FAILED, f"rank {world.rank}: {error or type(error).__name__}")
        raise


def _train_together(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    base_tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    recipe: Recipe,
    log: Callable[[dict[str, float]], None],
    folders: tuple[Path, Path],
    world: World | None,
) -> dict[str, Any]:
    """The training stage on rank 0, and on the others if there are any."""
    if world is None or world.size == 1:
        return run_stage(model, tokenizer, base_tokenizer, pairs, recipe, log)
    world.store.set(INVITATION, json.dumps({"base": str(folders[0]), "vocab": str(folders[1])}))
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // world.size))
    try:
        _share(model, num_ids(base_tokenizer), pairs)
        return run_stage(model, tokenizer, base_tokenizer, pairs, recipe, log, world)
    except RuntimeError as error:  # a collective that another rank left
        time.sleep(1.0)
        if world.store.check([FAILED]):
            raise StoppedError(f"align: another rank failed, {world.store.get(FAILED).decode()}") from error
        raise
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _share(model: PreTrainedModel, num_old: int, pairs: list[Pair] | None) -> list[Pair]:
    """Give every rank the new rows and the lexicon of rank 0."""
    box = [pairs]
    dist.broadcast_object_list(box, src=0)
    for weight in {
        id(w): w for w in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    }.values():
        new = weight[num_old:].contiguous()
        dist.broadcast(new, src=0)
        weight[num_old:] = new
    assert box[0] is not None
    return box[0]


def _load(
    recipe: Recipe, base: Path, vocab: Path, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """The base model in the run's precision, its tokenizer and the grown one."""
    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
    model = load_whole(base, dtype)
    tokenizers = (AutoTokenizer.from_pretrained(folder, local_files_only=True) for folder in (base, vocab))
    return (model.to(device).eval(), *tokenizers)


@torch.no_grad()
def _unrounded(model: PreTrainedModel, base: Path, num_tokens: int, num_old: int) -> PreTrainedModel:
    """The model as it is to be saved: with the base's own values wherever this stage left what the run's precision made
    of them. Training goes on in fp32, and bf16 would change nearly every weight of a base in fp16 or fp32.

    Returns:
        A model on the CPU; in bf16 if that holds every value, otherwise in fp32.
    """
    exact = load_whole(base)
    grow_rows(exact, num_tokens, num_old)
    lossless = True
    for own, moved in zip(exact.parameters(), model.parameters(), strict=True):
        found = moved.to("cpu")
        own.copy_(torch.where(found == own.to(found.dtype), own, found.float()))
        lossless = lossless and torch.equal(own, own.bfloat16().float())
    return exact.bfloat16() if lossless else exact


def _check_finite(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        finite = torch.isfinite(parameter).flatten(1).all(dim=1) if parameter.ndim > 1 else torch.isfinite(parameter)
        if not finite.all():
            bad = (~finite).nonzero().flatten()[:5].tolist()
            raise NumericError(f"base.model: {name} is not finite in rows {bad}; use another copy of the model")


def _english_bits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> float:
    """Bits per byte of the English validation text."""
    device = model.get_input_embeddings().weight.device
    return round(
        score(LanguageModelLoss(model), held_out(recipe, "valid", tokenizer)["english"], device).bits_per_byte, 4
    )
