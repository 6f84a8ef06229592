"""The vocabulary stage: base tokenizer and training text in, the grown tokenizer and its figures out."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from unicodedata import normalize

from transformers import PreTrainedTokenizerFast

from prealign_cpt.model.tokens import encode_text
from prealign_cpt.recipe.schema import HELD_OUT_SETS, Recipe
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.text.scripts import unspaced_share
from prealign_cpt.text.stage import held_out_documents, training_sample
from prealign_cpt.vocab.cuts import CUT_SHARE
from prealign_cpt.vocab.grow import Growth, grow_tokenizer, load_tokenizer, take_tokenizer, unreachable

SAMPLE_BYTES = {"target": 100_000_000, "english": 20_000_000}
"""Of the target text, so much is learned from; of the English, so much keeps its tokens."""

HELDOUT_LINES = 2_000
"""English lines on which the share of changed tokenizations is measured."""


def build_vocab(recipe: Recipe, base: Path, out: Path) -> None:
    """Fill `out` with the grown tokenizer, `new_tokens.tsv` and `report.json`.

    Raises:
        RecipeError: the base tokenizer is of a kind that cannot be grown, or the given one was not grown from it.
    """

    def sample(side: str) -> Iterable[str]:
        return training_sample(recipe, side, SAMPLE_BYTES[side])

    if recipe.vocab.tokenizer and recipe.vocab.size:
        growth = take_tokenizer(base, recipe.path(recipe.vocab.tokenizer), recipe.vocab.size, out)
    else:
        growth = grow_tokenizer(
            *(base, sample("target"), sample("english"), recipe.vocab.size, out),
            *(recipe.vocab.kind, recipe.vocab.pretokenizer),
        )
    tokenizer = load_tokenizer(out)
    new_ids = [token.id for token in growth.tokens]
    heldout = (document for name in HELD_OUT_SETS for document in held_out_documents(recipe, name, "english"))
    english = [line for document in heldout for line in document.split("\n")]
    report = tokenizer_report(
        load_tokenizer(base),
        tokenizer,
        held_out_documents(recipe, "valid", "target"),
        english[: 2 * HELDOUT_LINES : 2],
        new_ids,
    )
    report |= {"new_tokens": len(new_ids), "whole_words": growth.words, **_cuts(growth)}
    report["unreachable"] = len(unreachable(tokenizer, new_ids, sample("target")))
    lines = [f"{t.id}\t{t.text!r}\t{t.left}\t{t.right}\t{t.count}" for t in growth.tokens]
    atomic_write(out / "new_tokens.tsv", "\n".join(["id\ttext\tleft\tright\tcount", *lines]) + "\n")
    atomic_write(out / "report.json", json.dumps(report, indent=1))
    say(_line(report))


def _line(report: dict[str, Any]) -> str:
    """The outcome in a line, and one more where the base's pre-tokenizer matters."""
    # Where no space divides words there are none to count by.
    unit, per = ("tokens per word", "fertility") if report["fertility_before"] else (
        "characters per token", "characters_per_token")  # fmt: skip
    line = (
        f"vocab: {report['new_tokens']} new {'words' if report['whole_words'] else 'tokens'}, "
        f"{report[f'{per}_before']:.2f} -> {report[f'{per}_after']:.2f} {unit}, "
        f"English lines changed: {report['english_lines_changed']} of {report['english_lines']}, "
        f"unreachable: {report['unreachable']}"
    )
    if report.get("words_cut_share", 0.0) >= CUT_SHARE:
        line += (
            f"\nvocab: the base's pre-tokenizer cuts {report['words_cut_share']:.0%} of the words, into "
            f"{report['parts_per_word']:.2f} parts on average; "
        )
        if scripts := report["pretokenizer_changed"]:
            line += f"it was changed for {', '.join(scripts)}, and llama.cpp cannot read the grown one (docs/export.md)"
        else:
            line += "there can be no fewer tokens per word (vocab.pretokenizer, or transformers builds it itself)"
    return line


def _cuts(growth: Growth) -> dict[str, Any]:
    """What the base's pre-tokenizer does to the words of the training text, and what was done about it."""
    if growth.cuts is None:
        return {}
    return {
        "words_cut_share": _share(growth.cuts.cut, growth.cuts.words),
        "parts_per_word": _share(growth.cuts.parts, growth.cuts.words),
        "pretokenizer_changed": list(growth.scripts),
        "english_documents_recut": growth.recut,
    }


def tokenizer_report(
    base: PreTrainedTokenizerFast,
    grown: PreTrainedTokenizerFast,
    target_documents: Iterable[str],
    english_lines: Iterable[str],
    new_ids: Collection[int],
) -> dict[str, Any]:
    """Compare a base tokenizer with the grown one.

    Args:
        target_documents: text of the new language.
        english_lines: English text that was not part of the guard, or the share of changed lines says nothing.
        new_ids: ids of the tokens that were added.

    Returns:
        `fertility_before`, `fertility_after`: tokens per whitespace-separated word of the target text; 0.0 where most
        of its letters are of scripts that put no space between words;
        `characters_per_token_before`, `characters_per_token_after`: characters of the target text per token;
        `bytes_per_token_before`, `bytes_per_token_after`: UTF-8 bytes of the target text per token;
        `english_lines`, `english_lines_changed`, `english_changed_share`: lines, and those whose ids differ;
        `round_trip_failures`: texts of both languages that the grown tokenizer does not give back as they were;
        `round_trip_failures_base`: the same for the base, which is to blame for those it shares;
        `unreachable`: new tokens found neither in their own text's tokenization nor in the target text.
        `decomposed_texts`, `decomposed_texts_changed`: target texts that Unicode's decomposed form (NFD) spells
        otherwise, and those of them that then get other tokens.
        A quotient with nothing to divide by is 0.0.
    """
    target, english = list(target_documents), list(english_lines)
    spaced = unspaced_share("\n".join(target[:HELDOUT_LINES])) <= 0.5
    num_words = sum(len(document.split()) for document in target) if spaced else 0
    num_characters = sum(map(len, target))
    num_bytes = sum(len(document.encode()) for document in target)
    before, after = ([encode_text(tokenizer, text) for text in target + english] for tokenizer in (base, grown))
    num_before, num_after = (sum(map(len, ids[: len(target)])) for ids in (before, after))
    changed = sum(a != b for a, b in zip(before[len(target) :], after[len(target) :], strict=True))
    decomposed = [
        (form, ids)
        for text, ids in zip(target[:HELDOUT_LINES], after[: len(target)], strict=False)
        if (form := normalize("NFD", text)) != text
    ]
    used = {number for ids in after[: len(target)] for number in ids}
    return {
        "fertility_before": _share(num_before, num_words),
        "fertility_after": _share(num_after, num_words),
        "characters_per_token_before": _share(num_characters, num_before),
        "characters_per_token_after": _share(num_characters, num_after),
        "bytes_per_token_before": _share(num_bytes, num_before),
        "bytes_per_token_after": _share(num_bytes, num_after),
        "english_lines": len(english),
        "english_lines_changed": changed,
        "english_changed_share": _share(changed, len(english)),
        "round_trip_failures": _failures(grown, target + english, after),
        "round_trip_failures_base": _failures(base, target + english, before),
        "decomposed_texts": len(decomposed),
        "decomposed_texts_changed": sum(encode_text(grown, form) != ids for form, ids in decomposed),
        "unreachable": len(unreachable(grown, set(new_ids) - used)),
    }


def _failures(tokenizer: PreTrainedTokenizerFast, texts: list[str], encoded: list[list[int]]) -> int:
    decoded = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in encoded)
    return sum(text != back for text, back in zip(texts, decoded, strict=True))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
