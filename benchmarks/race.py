"""The race: the base with its own tokens and extended variants on the same small text, at equal text and equal compute.

    python benchmarks/race.py german greek --bytes 250000 --seeds 0,1,2

    fetched texts --shuffled once, a stretch for each seed--> runs/race/text/LANGUAGE-BYTES-sSEED.txt
                  --prealign compare, a seed at a time--> runs/race/... --> results/race.jsonl, results/race.about.json

Nothing but its stretch is seen by vocabulary, rows, alignment and training of a seed; the English replay is one stretch
for all languages and seeds. Beside them a variant has the lexicon and the held-out texts of benchmarks/race/*.toml, of
which the validation text decides nothing but the gate. Documents longer than 20 kB are cut at a line end, so that no
stretch is a single book. Where there is less text than the stretches of all seeds they overlap; race.about.json says
how many bytes there are.

With `--text-bytes` the stretch is longer than what the base reads of it: text is not the limit then, compute is, and a
variant that reads more of it at equal compute need not read it again. Vocabulary and lists see the whole stretch.

A second call goes on where the first was stopped, and makes nothing twice. Flags that are not known here go to
`prealign compare`: `--only base,subword`, or recipe keys.
"""

import argparse
import json
import os
import platform
import random
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from prealign_cpt.cli import main as prealign
from prealign_cpt.lab.compare.variants import read_grid
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import BusyError
from prealign_cpt.run.manifest import atomic_write, sha256
from prealign_cpt.text.reader import read_documents

HERE = Path(__file__).resolve().parent
LANGUAGES = ("german", "greek", "russian", "hindi")

LONGEST = 20_000
"""Bytes of a document; a longer one is several."""

ENGLISH_BYTES = 2_000_000
"""Of the English replay."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help=f"of {', '.join(LANGUAGES)}; all by default")
    parser.add_argument("--bytes", type=int, help="of training text; by default the variants file's")
    parser.add_argument("--text-bytes", type=int, help="of the stretch; by default as much as --bytes")
    parser.add_argument("--seeds", help="with commas between them; by default the variants file's")
    parser.add_argument("--variants", type=Path, default=HERE / "race" / "variants.toml")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "race.jsonl")
    options, flags = parser.parse_known_args()
    grid = read_grid(options.variants, options.bytes)
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else list(grid.seeds)
    worst = 0
    for seed in seeds:  # every language has its first seed before one has its second
        for language in options.languages or LANGUAGES:
            code = race(language, seed, grid.target_bytes, options, flags)
            if code == BusyError.exit_code:  # asked to stop
                return code
            worst = max(worst, code)
    return worst


def race(language: str, seed: int, target_bytes: int, options: argparse.Namespace, flags: list[str]) -> int:
    """One language and seed; the exit code of `prealign compare`."""
    path = HERE / "race" / f"{language}.toml"
    recipe = load_recipe(path, [])
    text_bytes = options.text_bytes or target_bytes
    name = f"{recipe.name}-{target_bytes}" + (f"-of-{text_bytes}" if text_bytes != target_bytes else "")
    folder = recipe.run.parent.absolute() / "text"
    target = folder / f"{language}-{text_bytes}-s{seed}.txt"
    english = folder / f"english-{ENGLISH_BYTES}.txt"
    available = write_stretch(target, recipe.paths(recipe.text.target), text_bytes, seed)
    write_stretch(english, recipe.paths(recipe.text.english), ENGLISH_BYTES, 0)
    command = ["compare", str(path), "--variants", str(options.variants)]
    command += ["--seeds", str(seed), "--target-bytes", str(target_bytes), "--out", str(options.out), f"--name={name}"]
    command += [f"--text.target={json.dumps([str(target)])}", f"--text.english={json.dumps([str(english)])}", *flags]
    print(f"race: {language}, seed {seed}, {target_bytes} bytes", flush=True)
    started, before = datetime.now(UTC), _content(options.out)
    code = prealign(command)
    if _content(options.out) != before:
        text = {"sha256": sha256(target), "bytes": text_bytes, "available_bytes": available}
        tell_about(options.out.with_suffix(".about.json"), f"{name}-s{seed}", started, text, command)
    return code


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def write_stretch(path: Path, sources: list[Path], size: int, number: int) -> int:
    """Write stretch `number` of `size` bytes of the sources' documents, unless it is there; bytes that there are.

    The documents stand in an order shuffled by a fixed seed; behind the last comes the first again.
    """
    pieces = [piece for document in read_documents(sources) for piece in cut(document, LONGEST)]
    available = sum(len(piece.encode()) for piece in pieces)
    if size > available:
        sys.exit(f"race: {', '.join(map(str, sources))}: only {available} bytes, {size} were asked for")
    if not path.exists():
        random.Random(0).shuffle(pieces)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, "\n\n".join(stretch(pieces, size, number * size % available)) + "\n")
    return available


def stretch(pieces: list[str], size: int, start: int) -> list[str]:
    """`size` bytes of pieces from the first that begins at byte `start` or behind; the last one is cut to fit."""
    position = chosen = 0
    while position < start:
        position += len(pieces[chosen].encode())
        chosen += 1
    found: list[str] = []
    left = size
    while left > 0:
        piece = pieces[chosen % len(pieces)]
        found.append(piece if len(piece.encode()) <= left else piece.encode()[:left].decode(errors="ignore"))
        left -= len(piece.encode())
        chosen += 1
    return [piece for piece in found if piece.strip()]


def cut(document: str, longest: int) -> list[str]:
    """A document in parts of at most `longest` bytes, at line ends; a longer line stays whole."""
    parts: list[str] = []
    size = longest
    for line in document.split("\n"):
        length = len(line.encode()) + 1
        if size + length > longest:
            parts.append(line)
            size = 0
        else:
            parts[-1] += "\n" + line
        size += length
    return [part.strip("\n") for part in parts if part.strip()]


def tell_about(path: Path, name: str, started: datetime, text: dict[str, Any], command: list[str]) -> None:
    """Put into the file on what, with what and of what the runs were made; each call for a name adds an entry."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    entry = {
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
        "hardware": gpu or f"{cpu[0] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "tokenizers")},
        },
        "text": text,
        "command": shlex.join(["prealign", *command]),
    }
    about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    about.setdefault(name, []).append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
