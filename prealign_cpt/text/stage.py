"""The text stage: whatever the recipe names as text to one file a side, and held-out text where none is named.

text.target, text.english --sources--> documents --split--> {target,english}.train.jsonl
                                                            {target,english}.{valid,test}.jsonl   unless named
                                                            report.json
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from prealign_cpt.recipe.schema import SIDES, SPLIT_SETS, Recipe
from prealign_cpt.run.errors import DataError, RecipeError
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write, storage_error
from prealign_cpt.text.languages import Identifier, language_of
from prealign_cpt.text.lines import read_lines
from prealign_cpt.text.reader import LONGEST, Unit, cut, read_documents
from prealign_cpt.text.scripts import main_script, script_shares
from prealign_cpt.text.sources import Source, sources
from prealign_cpt.text.split import REPEATED, Repeated, share_of, side_of

FEW_DOCUMENTS = 100
"""Fewer documents are cut into so many parts or more before they are split, so that something is held out."""

SAMPLE = 2_000
"""Documents of a text whose language and script are looked at, evenly spread."""

MUCH_FOREIGN = 0.2
"""Share of documents in another language that is warned about."""


def sources_of(recipe: Recipe, side: str) -> list[Source]:
    """The sources of a side's training text.

    Raises:
        as `sources`.
    """
    text = recipe.text
    unit: Unit | None = None if text.document == "auto" else text.document
    return sources([(name, recipe.path(name)) for name in getattr(text, side)], text.column, unit)


def split_off(recipe: Recipe, side: str) -> list[str]:
    """The held-out sets that are split off a side's training text, because the recipe names none."""
    return [name for name in SPLIT_SETS if not getattr(recipe.text, f"{name}_{side}")]


def build_text(recipe: Recipe, out: Path) -> None:
    """Fill `out` with the training texts, the held-out texts that are split off them, and `report.json`.

    Raises:
        MissingInputError, DataError: a text cannot be read, or is too short to be split.
        RecipeError: no English text is named.
        StorageError: writing failed.
    """
    report: dict[str, Any] = {}
    column = recipe.text.column
    for side in SIDES:
        found = sources_of(recipe, side)
        if not found:
            raise RecipeError(f"text.{side}: empty; name at least one file, folder or pattern")
        report[side] = _write_side(found, side, split_off(recipe, side), column, out)
        report[side]["language"] = _look(recipe, side, out)
        for told in _told(side, found, report[side]):
            say(told)
    atomic_write(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def training_documents(recipe: Recipe, side: str) -> Iterator[str]:
    """The documents of a side's training text, as this stage wrote them."""
    return read_documents([recipe.training(side)], recipe.text.column)


def held_out_documents(recipe: Recipe, name: str, side: str) -> Iterator[str]:
    """The documents of a held-out text ("valid", "test", "general"), named or split off; none of a set that there is
    not."""
    path = recipe.held_out(name, side)
    return read_documents([path], recipe.text.column) if path else iter(())


def _write_side(found: list[Source], side: str, names: list[str], column: str, out: Path) -> dict[str, Any]:
    """Write a side's texts; its part of the report."""
    share, longest = 0.0, LONGEST
    if names:
        count, size = 0, 0
        for source in found:
            for document in source.documents():
                count += 1
                size += len(document.encode())
        share = share_of(size, f"text.{side}")
        if count < FEW_DOCUMENTS:
            longest = max(200, size // (4 * FEW_DOCUMENTS))
    held = _held_out(found, share, names, longest) if names else {}
    for name, documents in held.items():
        if not documents:
            raise DataError(
                f"text.{side}: no document fell to the held-out text {name!r}; name one as text.{name}_{side}, or give "
                "text in more and shorter documents"
            )
        atomic_write(out / f"{side}.{name}.jsonl", "".join(_line(document, column) for document in documents))
    repeated = Repeated(document for documents in held.values() for document in documents)
    part: dict[str, Any] = {"share_held_out": share, "parts": longest < LONGEST, "sources": [], "repeats_left_out": 0}
    path = out / f"{side}.train.jsonl"
    try:
        with path.open("w", encoding="utf-8") as file:
            for source in found:
                counts = _write_source(source, share, names, longest, repeated, file)
                part["repeats_left_out"] += counts.pop("repeats")
                part["sources"].append({"name": source.name, "files": len(source.files), "unit": source.unit, **counts})
    except OSError as error:
        raise storage_error(path, error) from error
    for key in ("documents", "bytes"):
        part[key] = sum(one[key] for one in part["sources"])
    if not part["documents"]:
        raise DataError(
            f"text.{side}: all {part['repeats_left_out']:,} training documents repeat held-out text, half of each or "
            f"more; name held-out texts instead: text.valid_{side}, text.test_{side}"
        )
    for name, documents in held.items():
        part[name] = {"documents": len(documents), "bytes": sum(len(text.encode()) for text in documents)}
    return part


def _parts(source: Source, longest: int) -> Iterator[str]:
    for document in source.documents():
        yield from cut(document, longest) if longest < LONGEST else (document,)


def _held_out(found: list[Source], share: float, names: list[str], longest: int) -> dict[str, list[str]]:
    """The documents of each held-out text, each once, in their order."""
    held: dict[str, dict[str, None]] = {name: {} for name in names}
    for source in found:
        for part in _parts(source, longest):
            if (side := side_of(part, share, names)) != "train":
                held[side][part] = None
    return {name: list(documents) for name, documents in held.items()}


def _write_source(
    source: Source, share: float, names: list[str], longest: int, repeated: Repeated, file: TextIO
) -> dict[str, int]:
    counts = {"documents": 0, "bytes": 0, "repeats": 0}
    for part in _parts(source, longest):
        if names and side_of(part, share, names) != "train":
            continue
        if names and repeated.share(part) >= REPEATED:
            counts["repeats"] += 1
            continue
        file.write(_line(part, source.column))
        counts["documents"] += 1
        counts["bytes"] += len(part.encode())
    return counts


def _line(document: str, column: str) -> str:
    return json.dumps({column: document}, ensure_ascii=False) + "\n"


def _look(recipe: Recipe, side: str, out: Path) -> dict[str, Any]:
    """What languages and scripts a text is in, by a sample."""
    path, column = out / f"{side}.train.jsonl", recipe.text.column
    every = max(1, sum(1 for _ in read_lines(path, None)) // SAMPLE)
    sample = list(islice(read_documents([path], column), 0, None, every))
    code = "en" if side == "english" else language_of(recipe.language).short
    identify = Identifier()
    found = Counter(identify(document[:1000]) for document in sample)
    known = code in identify.languages
    return {
        "code": code,
        "known": known,
        "documents_looked_at": len(sample),
        "languages": {name: round(count / len(sample), 3) for name, count in found.most_common(5)},
        "share_foreign": round(1 - found[code] / len(sample), 3) if known else None,
        "scripts": script_shares(sample),
    }


def _told(side: str, found: list[Source], part: dict[str, Any]) -> Iterator[str]:
    for source, counts in zip(found, part["sources"], strict=True):
        read = f"{counts['documents']:,} documents, {counts['bytes']:,} bytes"
        yield f"text: {side}: {source.name}: {source.told()}; {read}"
    for name in SPLIT_SETS:
        if name in part:
            what = "parts of documents" if part["parts"] else "documents"
            held = part[name]
            yield f"text: {side}: held out for {name}: {held['documents']:,} {what}, {held['bytes']:,} bytes"
    if part["repeats_left_out"]:
        yield f"text: {side}: {part['repeats_left_out']:,} documents left out that repeat held-out text"
    language = part["language"]
    if part["documents"] == 1 and part["bytes"] > 1_000_000:
        yield f'text: {side}: a single document; is each line one? then set text.document to "line"'
    if language["share_foreign"] is not None and language["share_foreign"] > MUCH_FOREIGN:
        seen = ", ".join(f"{name} {share:.0%}" for name, share in language["languages"].items())
        yield f"text: {side}: warning: {language['share_foreign']:.0%} of the documents look foreign ({seen})"
    yield f"text: {side}: mostly {main_script(language['scripts'])} letters"
