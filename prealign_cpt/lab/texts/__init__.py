"""Texts in German, Russian, Greek and Hindi: versions that are pinned go in, verified folders in the cache come out.

    bible.py    PyPI wheels: Bibles, conversations --> {target,english}.{train,valid,test}.txt, parallel.*.tsv and
                                                       general.{target,english}.txt (evaluation only)
    debian.py   Debian packages, where apt-get is ---> {target,english}.{train,valid,test}.txt, larger
                                                       Greek, Hindi: lexicon.tsv; Greek: general.{target,english}.txt
      readers.py     its formats
      dictionary.py  its dictionaries

Text files are UTF-8: documents parted by one blank line. Every folder is published whole with a manifest and is checked
against it each time it is asked for. Nothing here executes what it downloads, and importing it reaches no network.
"""

import shutil
from pathlib import Path

from prealign_cpt.lab.texts.bible import VERSIONS, fetch_bible
from prealign_cpt.lab.texts.debian import SOURCES, fetch_debian
from prealign_cpt.run.errors import PrealignError
from prealign_cpt.run.folder import say

ENGLISH_FROM = "de"
"""The language whose folder lends its English."""


def fetch(code: str, larger: bool) -> list[str]:
    """Bring the texts for language `code` into the cache; return lines that say what is where.

    The Bible and the general-domain text must come. The larger text is tried when `larger` is set or `apt-get` is
    there; if it fails, a line says why and nothing else happens. A language without a Bible must get the larger text.

    Raises:
        PrealignError: as `fetch_bible`; as `fetch_debian` for a language without a Bible.
    """
    if code in SOURCES and code not in VERSIONS:
        folder = fetch_debian(code)
        return [f"Bible ({code}): none, no version in the public domain is prepared", _describe("text", folder)]
    lines = [_describe("Bible and general-domain text", fetch_bible(code))]
    if not larger and shutil.which("apt-get") is None:
        return [*lines, f"larger text ({code}): skipped, apt-get is not there"]
    try:
        lines.append(_describe("larger text", fetch_debian(code)))
    except PrealignError as error:
        lines.append(f"larger text ({code}): skipped: {error}")
    return lines


def default_english() -> dict[str, list[str] | str]:
    """Bring English text into the cache for a recipe that names none; the keys of the recipe that name it.

    The larger text if it is there or can be brought, else the Bible's.

    Raises:
        PrealignError: neither can be brought.
    """
    try:
        folder = fetch_debian(ENGLISH_FROM)
    except PrealignError as error:
        folder = fetch_bible(ENGLISH_FROM)
        say(f"text.english: the larger default text cannot be brought ({error}); English will be the Bible's alone")
    size = (folder / "english.train.txt").stat().st_size / 1e6
    say(
        f"text.english: none given, so {size:.0f} MB of {folder.name}, which is manuals, a dictionary and the like, or "
        "the Bible; text that is nearer to what the model shall keep is better"
    )
    place = f"cache:{folder.name}"
    held_out = {f"text.{name}_english": f"{place}/english.{name}.txt" for name in ("valid", "test")}
    return {"text.english": [f"{place}/english.train.txt"], **held_out}


def _describe(what: str, folder: Path) -> str:
    target, english = ((folder / f"{side}.train.txt").stat().st_size / 1e6 for side in ("target", "english"))
    return f"{what}: {target:.1f} MB in the target language, {english:.1f} MB English to train on, in {folder}"
