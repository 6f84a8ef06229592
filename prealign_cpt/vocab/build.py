"""The vocabulary stage: base tokenizer and training text in, the grown tokenizer and its figures out."""

import json
from itertools import islice
from pathlib import Path

from transformers import AutoTokenizer

from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.text.reader import read_documents
from prealign_cpt.vocab.given import take_tokenizer
from prealign_cpt.vocab.grow import grow_tokenizer, unreachable
from prealign_cpt.vocab.measure import tokenizer_report

GUARD_DOCUMENTS = 20_000
"""English documents whose tokenization the vocabulary stage protects, and target documents it learns from."""

HELDOUT_LINES = 2_000
"""English lines on which the share of changed tokenizations is measured."""


def build_vocab(recipe: Recipe, base: Path, out: Path) -> None:
    """Fill `out` with the grown tokenizer, `new_tokens.tsv` and `report.json`.

    Raises:
        RecipeError: the base tokenizer is of a kind that cannot be grown, or the given one was not grown from it.
    """
    target = recipe.paths(recipe.text.target)
    if recipe.vocab.tokenizer and recipe.vocab.size:
        growth = take_tokenizer(base, recipe.path(recipe.vocab.tokenizer), recipe.vocab.size, out)
    else:
        growth = grow_tokenizer(
            base,
            islice(read_documents(target), GUARD_DOCUMENTS),
            islice(read_documents(recipe.paths(recipe.text.english)), GUARD_DOCUMENTS),
            recipe.vocab.size,
            out,
        )
    base_tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    new_ids = [piece.id for piece in growth.pieces]
    english = [
        line
        for name in (recipe.text.valid_english, recipe.text.test_english, recipe.text.general_english)
        if name
        for document in read_documents([recipe.path(name)])
        for line in document.split("\n")
    ]
    report = tokenizer_report(
        base_tokenizer,
        tokenizer,
        list(read_documents([recipe.path(recipe.text.valid_target)])),
        english[: 2 * HELDOUT_LINES : 2],
        new_ids,
    )
    report["new_tokens"] = len(new_ids)
    report["unreachable"] = len(unreachable(tokenizer, new_ids, islice(read_documents(target), GUARD_DOCUMENTS)))
    lines = [f"{p.id}\t{p.text!r}\t{p.left}\t{p.right}\t{p.count}" for p in growth.pieces]
    atomic_write(out / "new_tokens.tsv", "\n".join(["id\ttext\tleft\tright\tcount", *lines]) + "\n")
    atomic_write(out / "report.json", json.dumps(report, indent=1))
    say(
        f"vocab: {len(new_ids)} new tokens, {report['fertility_before']:.2f} -> {report['fertility_after']:.2f} tokens "
        f"per word, English lines changed: {report['english_lines_changed']} of {report['english_lines']}, "
        f"unreachable: {report['unreachable']}"
    )
