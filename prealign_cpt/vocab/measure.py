"""Say in figures what growing a tokenizer did: two tokenizers and held-out text in, one dictionary out."""

from collections.abc import Collection, Iterable
from typing import Any

from transformers import PreTrainedTokenizerFast

from prealign_cpt.vocab.grow import encode, unreachable


def tokenizer_report(
    base_tok: PreTrainedTokenizerFast,
    new_tok: PreTrainedTokenizerFast,
    target_docs: Iterable[str],
    english_lines: Iterable[str],
    new_ids: Collection[int],
) -> dict[str, Any]:
    """Compare a base tokenizer with the grown one.

    Args:
        target_docs: text of the new language.
        english_lines: English text that was not part of the guard, or the share of changed lines says nothing.
        new_ids: ids of the tokens that were added.

    Returns:
        `fertility_before`, `fertility_after`: tokens per whitespace-separated word of the target text;
        `bytes_per_token_before`, `bytes_per_token_after`: UTF-8 bytes of the target text per token;
        `english_lines`, `english_lines_changed`, `english_changed_share`: lines, and those whose ids differ;
        `round_trip_failures`: texts of both languages that the grown tokenizer does not give back as they were;
        `round_trip_failures_base`: the same for the base, which is to blame for those it shares;
        `unreachable`: new tokens found neither in their own text's tokenization nor in the target text.
        A quotient with nothing to divide by is 0.0.
    """
    target = list(target_docs)
    english = list(english_lines)
    num_words = sum(len(document.split()) for document in target)
    num_bytes = sum(len(document.encode()) for document in target)
    before = [encode(base_tok, document) for document in target]
    after = [encode(new_tok, document) for document in target]
    num_before, num_after = sum(map(len, before)), sum(map(len, after))
    english_before = [encode(base_tok, line) for line in english]
    english_after = [encode(new_tok, line) for line in english]
    changed = sum(old != new for old, new in zip(english_before, english_after, strict=True))
    used = {number for ids in after for number in ids}
    return {
        "fertility_before": _share(num_before, num_words),
        "fertility_after": _share(num_after, num_words),
        "bytes_per_token_before": _share(num_bytes, num_before),
        "bytes_per_token_after": _share(num_bytes, num_after),
        "english_lines": len(english),
        "english_lines_changed": changed,
        "english_changed_share": _share(changed, len(english)),
        "round_trip_failures": _failures(new_tok, target + english, after + english_after),
        "round_trip_failures_base": _failures(base_tok, target + english, before + english_before),
        "unreachable": len(unreachable(new_tok, set(new_ids) - used)),
    }


def _failures(tokenizer: PreTrainedTokenizerFast, texts: list[str], ids: list[list[int]]) -> int:
    decoded = (tokenizer.decode(one, clean_up_tokenization_spaces=False) for one in ids)
    return sum(text != back for text, back in zip(texts, decoded, strict=True))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
