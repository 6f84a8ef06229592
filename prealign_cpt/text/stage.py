"""The text stage: whatever the recipe names as text to shards of each source, and held-out text where none is named.

    text.target, text.english, [[text.source]] --entries--> groups of files --workers--> train/SOURCE/00000-000.jsonl
                                     the same, by document --split--> {target,english}.{valid,test}.jsonl, unless named
                                                                      {target,english}.{valid,test}.SOURCE.jsonl
                                                                      report.json

A group is read by one worker and its shards are a pure function of it. The held-out texts of a side stand in the order
of their hashes, so that their beginning is of all sources; where there are several, each one's stands apart too.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.recipe.schema import SIDES, SPLIT_SETS, Recipe, Source
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write, storage_error
from prealign_cpt.run.tasks import each, take, worth
from prealign_cpt.text.languages import Identifier, language_of
from prealign_cpt.text.reader import LONGEST, Unit, cut, read_documents
from prealign_cpt.text.scripts import main_script, script_shares
from prealign_cpt.text.sources import Entry, entries, parallel
from prealign_cpt.text.split import REPEATED, Repeated, place, share_of, side_of, stretches_of

SHARD_BYTES = 64_000_000
"""Of text in a shard, and of the files in a group, about."""

FEW_DOCUMENTS = 100
"""Fewer documents are cut into so many parts or more before they are split, so that something is held out."""

SAMPLE, SAMPLE_BYTES = 2_000, 16_000_000
"""Documents of a text whose language and script are looked at, evenly spread over so much of it."""

MUCH_FOREIGN = 0.2
"""Share of documents in another language that is warned about."""


def entries_of(recipe: Recipe, source: Source) -> list[Entry]:
    """The entries of a source.

    Raises:
        as `entries` and `parallel`.
    """
    unit: Unit | None = None if recipe.text.document == "auto" else recipe.text.document

    def of(names: tuple[str, ...], unit: Unit | None) -> list[Entry]:
        return entries([(name, recipe.path(name)) for name in names], recipe.text.column, unit)

    if source.target and source.english:
        return parallel(of(source.english, "line"), of(source.target, "line"))
    return of(source.target or source.english, unit)


def split_off(recipe: Recipe, side: str) -> list[str]:
    """The held-out sets that are split off a side's training text, because the recipe names none."""
    return [name for name in SPLIT_SETS if not getattr(recipe.text, f"{name}_{side}")]


def build_text(recipe: Recipe, out: Path, scratch: Path, workers: int) -> None:
    """Fill `out` with the training texts, the held-out texts that are split off them, and `report.json`.

    Args:
        scratch: folder of what is done by task, which may be there from an earlier start.

    Raises:
        MissingInputError, DataError: a text cannot be read, or is too short to be split.
        StorageError: writing failed.
    """
    report: dict[str, Any] = {}
    for side in SIDES:
        found = {source.name: entries_of(recipe, source) for source in recipe.sources(side)}
        report[side] = _write_side(recipe, side, found, out, scratch / side, workers)
        report[side]["language"] = _look(recipe, side, report[side], out)
        for told in _told(side, found, report[side]):
            say(told)
    atomic_write(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def text_report(recipe: Recipe, side: str) -> dict[str, Any]:
    """What the stage says of a side's training text: "documents", "bytes"; "sources", each with its "name", the same
    and its "shards", [name, documents, bytes] each; ..."""
    report: dict[str, dict[str, Any]] = json.loads((recipe.run / "text" / "report.json").read_text(encoding="utf-8"))
    return report[side]


def shard_path(recipe: Recipe, source: str, shard: str) -> Path:
    """A shard of a source's training text, JSON lines."""
    return _shard(recipe.run / "text", source, shard)


def training_sample(recipe: Recipe, side: str, most_bytes: int) -> Iterator[str]:
    """About so much of a side's training text: all of it where it is no longer, else the beginning of every shard. The
    sources have the parts that their weights say, or that they have of the text."""
    report = text_report(recipe, side)
    weights = recipe.weights(side)
    return _sample(recipe.run / "text", report, weights, most_bytes, recipe.text.column)


def held_out_documents(recipe: Recipe, name: str, side: str) -> Iterator[str]:
    """The documents of a held-out text ("valid", "test", "general"), named or split off; none of a set that there is
    not."""
    path = recipe.held_out(name, side)
    return read_documents([path], recipe.text.column) if path else iter(())


def held_out_by_source(recipe: Recipe, name: str, side: str) -> dict[str, Path]:
    """Of a held-out text that was split off several sources, the part of each that has one."""
    if name not in split_off(recipe, side):
        return {}
    paths = {
        source.name: _apart(recipe.run / "text" / f"{side}.{name}.jsonl", source.name)
        for source in recipe.sources(side)
    }
    return {source: path for source, path in paths.items() if path.is_file()}


@dataclass(frozen=True)
class _Group:
    """A task: some files of a source, and what is split off them."""

    entry: Entry
    share: float = 0.0
    names: tuple[str, ...] = ()
    longest: int = LONGEST
    held_out: NDArray[np.uint64] | None = None
    """Stretches of the held-out documents; None where no training document is left out for their sake."""

    def parts(self) -> Iterator[tuple[str, str]]:
        """Documents, or parts of them, and the side of each."""
        for document in self.entry.documents():
            for part in cut(document, self.longest) if self.longest < LONGEST else (document,):
                yield part, side_of(part, self.share, self.names) if self.names else "train"


def _write_side(
    recipe: Recipe, side: str, found: dict[str, list[Entry]], out: Path, scratch: Path, workers: int
) -> dict[str, Any]:
    """Write a side's texts; its part of the report."""
    column, names = recipe.text.column, split_off(recipe, side)
    groups = {
        f"{name}/{number:05}": entry
        for name, of_source in found.items()
        for number, entry in enumerate(group for entry in of_source for group in entry.groups(SHARD_BYTES))
    }
    workers = worth(workers, sum(path.stat().st_size for entry in groups.values() for path in entry.files))
    split = [name for name, entry in groups.items() if names and not entry.others]
    share, longest = 0.0, LONGEST
    if split:
        counted = each(_count, {name: groups[name] for name in split}, scratch / "count", workers, f"text: {side}")
        count, size = (sum(one[i] for one in counted.values()) for i in (0, 1))
        share = share_of(size, f"text.{side}")
        if count < FEW_DOCUMENTS:
            longest = max(200, size // (4 * FEW_DOCUMENTS))
    group = partial(_Group, share=share, names=tuple(names), longest=longest)
    candidates = {name: group(groups[name]) for name in split}
    held = _held_out(each(_hold_out, candidates, scratch / "held", workers, f"text: {side}"), names)
    for name, documents in held.items():
        _write_held_out(out / f"{side}.{name}.jsonl", documents, column, side, [*found])
    known = stretches_of(document for documents in held.values() for document in documents)
    tasks = {
        name: (
            replace(candidates.get(name, _Group(entry)), held_out=known if len(known) else None),
            column,
            SHARD_BYTES,
        )
        for name, entry in groups.items()
    }
    written = each(_write, tasks, scratch / "train", workers, f"text: {side}")
    return {
        "share_held_out": share,
        "parts": longest < LONGEST,
        **_gathered(side, found, written, scratch / "train", out),
        **{
            name: {"documents": len(documents), "bytes": sum(len(text.encode()) for text in documents)}
            for name, documents in held.items()
        },
    }


def _count(entry: Entry, _: Path) -> list[int]:
    """Documents and bytes."""
    count, size = 0, 0
    for document in entry.documents():
        count += 1
        size += len(document.encode())
    return [count, size]


def _hold_out(group: _Group, _: Path) -> list[tuple[str, str]]:
    """The documents of held-out texts, with the names of these."""
    return [(part, side) for part, side in group.parts() if side != "train"]


def _held_out(found: dict[str, list[tuple[str, str]]], names: list[str]) -> dict[str, dict[str, str]]:
    """The documents of each held-out text, each once, by their hashes, with the source of each."""
    held: dict[str, dict[str, str]] = {name: {} for name in (names if found else ())}
    for group, documents in found.items():
        for document, name in documents:
            held[name].setdefault(document, group.partition("/")[0])
    return {name: dict(sorted(documents.items(), key=lambda one: place(one[0]))) for name, documents in held.items()}


def _write_held_out(path: Path, documents: dict[str, str], column: str, side: str, sources: list[str]) -> None:
    """A held-out text; where there are several sources, that of each one too."""
    name = path.name.split(".")[1]
    if not documents:
        raise DataError(
            f"text.{side}: no document fell to the held-out text {name!r}; name one as text.{name}_{side}, or give "
            "text in more and shorter documents"
        )
    atomic_write(path, "".join(_line(document, column) for document in documents))
    for source in sources if len(sources) > 1 else ():
        if own := [document for document, of in documents.items() if of == source]:
            atomic_write(_apart(path, source), "".join(_line(document, column) for document in own))


def _apart(path: Path, source: str) -> Path:
    """The part that a source has of a held-out text."""
    return path.with_suffix(f".{source}.jsonl")


def _write(task: tuple[_Group, str, int], prefix: Path) -> dict[str, Any]:
    """Write the training documents of a group; its shards and what was left out."""
    group, column, shard_bytes = task
    repeated = Repeated(group.held_out) if group.held_out is not None else None
    shards: list[list[Any]] = []
    repeats, documents, size = 0, 0, 0
    file = None
    try:
        for part, side in group.parts():
            if side != "train":
                continue
            if repeated and repeated.share(part) >= REPEATED:
                repeats += 1
                continue
            if file is None or size >= shard_bytes:
                if file is not None:
                    file.close()
                    shards[-1][1:] = documents, size
                name = f"{prefix.name}-{len(shards):03}"
                file = prefix.with_name(f"{name}.jsonl").open("w", encoding="utf-8")
                shards.append([name, 0, 0])
                documents, size = 0, 0
            file.write(_line(part, column))
            documents += 1
            size += len(part.encode())
    except OSError as error:
        raise storage_error(prefix, error) from error
    finally:
        if file is not None:
            file.close()
    if shards:
        shards[-1][1:] = documents, size
    return {"shards": shards, "repeats": repeats}


def _gathered(
    side: str, found: dict[str, list[Entry]], written: dict[str, dict[str, Any]], scratch: Path, out: Path
) -> dict[str, Any]:
    """The shards where they belong, and what there is to say of them."""
    part: dict[str, Any] = {"sources": [], "repeats_left_out": sum(one["repeats"] for one in written.values())}
    for name, of_source in found.items():
        own = [shard for group, one in written.items() if group.startswith(f"{name}/") for shard in one["shards"]]
        (out / "train" / name).mkdir(parents=True)
        for shard, _, _ in own:
            take(scratch / name / f"{shard}.jsonl", _shard(out, name, shard))
        part["sources"].append({
            "name": name,
            "documents": sum(documents for _, documents, _ in own),
            "bytes": sum(size for _, _, size in own),
            "entries": [{"name": e.name, "files": len(e.files), "unit": e.unit} for e in of_source],
            "shards": own,
        })  # fmt: skip
    for key in ("documents", "bytes"):
        part[key] = sum(one[key] for one in part["sources"])
    for one in part["sources"]:
        if not one["documents"]:
            where = f"text.{side}" if one["name"] == side else f"text.source {one['name']!r}"
            raise DataError(
                f"{where}: all training documents repeat held-out text, half of each or more; name held-out texts "
                f"instead: text.valid_{side}, text.test_{side}"
            )
    return part


def _shard(text: Path, source: str, shard: str) -> Path:
    return text / "train" / source / f"{shard}.jsonl"


def _sample(text: Path, report: dict[str, Any], weights: list[float], most: int, column: str) -> Iterator[str]:
    """`training_sample`, of a text's folder."""
    whole = report["bytes"] <= most
    shares = weights or [source["bytes"] / report["bytes"] for source in report["sources"]]
    for source, share in zip(report["sources"], shares, strict=True):
        for shard, _, size in source["shards"]:
            left = size if whole else most * share * size / source["bytes"]
            for document in read_documents([_shard(text, source["name"], shard)], column):
                if left <= 0:
                    break
                yield document
                left -= len(document.encode())


def _line(document: str, column: str) -> str:
    return json.dumps({column: document}, ensure_ascii=False) + "\n"


def _look(recipe: Recipe, side: str, report: dict[str, Any], out: Path) -> dict[str, Any]:
    """What languages and scripts a text is in, by a sample."""
    looked_at = list(_sample(out, report, recipe.weights(side), SAMPLE_BYTES, recipe.text.column))
    sample = list(islice(looked_at, 0, None, max(1, len(looked_at) // SAMPLE)))
    codes = ["en"] if side == "english" else sorted({language_of(name).short for name in recipe.languages})
    identify = Identifier()
    found = Counter(identify(document[:1000]) for document in sample)
    known = set(codes) <= set(identify.languages)
    return {
        "code": " ".join(codes),
        "known": known,
        "documents_looked_at": len(sample),
        "languages": {name: round(count / len(sample), 3) for name, count in found.most_common(5)},
        "share_foreign": round(1 - sum(found[code] for code in codes) / len(sample), 3) if known else None,
        "scripts": script_shares(sample),
    }


def _told(side: str, found: dict[str, list[Entry]], part: dict[str, Any]) -> Iterator[str]:
    for counts in part["sources"]:
        told = "; ".join(f"{entry.name}: {entry.told()}" for entry in found[counts["name"]])
        source = "" if counts["name"] == side else f"{counts['name']}: "
        yield f"text: {side}: {source}{told}; {counts['documents']:,} documents, {counts['bytes']:,} bytes"
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
