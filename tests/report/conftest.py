"""Made-up run folders: only the files that a report reads."""

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from prealign_cpt.evaluate.subject import model_digest, tokenizer_digest
from prealign_cpt.report import write_report
from prealign_cpt.run.folder import ORDER

WINDOWS = 10

Make = Callable[[str, float], Path]


class Page(HTMLParser):
    """A page that is well-formed, needs no network and no script, and leaves out no level of headings."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open and not {"script", "link", "iframe", "img", "object"} & set(self.tags)
        assert not any(
            name in ("href", "src", "action", "xlink:href") or name[:2] == "on" for name, _ in self.attributes
        )
        levels = [int(tag[1]) for tag in self.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[:2] == [1, 2] and levels.count(1) == 1
        assert all(low - high <= 1 for high, low in itertools.pairwise(levels)), "no level is left out"
        assert not re.search(r"url\(|@import|https?:", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(run: Path, controls: Sequence[Path] = (), **options: Any) -> Page:
    """The page that a report of a run writes."""
    write_report(run, controls, **options)
    return Page(options.get("out", run / "report") / "index.html")


def windows(bpb: float, jitter: int) -> list[list[float]]:
    """Windows that have this many bits per byte together; those of models with other scores differ by a little."""
    sizes = [800 + 20 * n for n in range(WINDOWS)]
    random = Random(round(bpb * 1e6) + jitter)
    noise = [random.gauss(0, 0.01) * size for size in sizes]
    shift = sum(noise) / sum(sizes)
    hard = [0.2 * (n % 3 - 1) * size for n, size in enumerate(sizes)]
    level = bpb - sum(hard) / sum(sizes)
    return [
        [((level - shift) * size + h + e) * math.log(2), size] for size, h, e in zip(sizes, hard, noise, strict=True)
    ]


def scores(target: float, english: float, p1: float) -> dict[str, Any]:
    """Of one model, as the evaluation stage writes them."""
    texts = {"target": windows(target, 0), "english": windows(english, 1)}
    return {
        "valid": {"target_bpb": target + 0.01, "english_bpb": english + 0.01},
        "test": {"target_bpb": target, "english_bpb": english, "windows": texts},
        "general": {"target_bpb": target + 0.2, "english_bpb": english + 0.2},
        "retrieval": {"p1": p1, "words": 40, "candidates": 400, "layer": 5},
    }


def write(path: Path, content: Any) -> None:
    """Write a string as it is, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def read(path: Path) -> Any:
    """Strict JSON: `int` refuses NaN and Infinity."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=int)


def put(path: Path, *keys: str, value: Any) -> None:
    """Change one value of a JSON file."""
    content = part = read(path)
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    write(path, content)


def log(target: float, tokens: int = 512) -> str:
    """A training log with three validations."""
    lines: list[dict[str, Any]] = [{"step": step, "tokens": step * tokens, "loss": 3.0} for step in range(5)]
    for step in (0, 2, 4):
        lines[step]["valid"] = {"target_bpb": target + 0.5 / (step + 1), "english_bpb": 1.2 + step / 1000}
    return "".join(json.dumps(line) + "\n" for line in lines)


def fill(run: Path, final: float) -> Path:
    """A finished run whose model scores `final` bits per byte on the target test text."""
    for stage in ORDER:
        about = {"stage": stage, "inputs": {}, "version": "0.1.0", "seconds": 2.5, "peak_mb": 300.0}
        write(run / stage / "MANIFEST.json", {"format": 1, "about": about, "files": {}})
    align = {"rows": {"subword": 60, "lexicon": 40}, "english_gate": {"before": 1.2, "after": 1.205, "limit": 0.02}}
    contrast = [{"step": step, "contrastive": 4.0 / step, "anchor": 2.5} for step in range(1, 8)]
    write(run / "align/report.json", align | {"contrast": contrast})
    models = {"base": (2.986, 1.2, 0.1), "aligned": (2.4, 1.208, 0.1), "trained": (final, 1.212, 0.5)}
    write(run / "eval/report.json", {"models": {name: scores(*figures) for name, figures in models.items()}})
    vocab = {"new_tokens": 100, "unreachable": 3, "fertility_before": 3.1, "fertility_after": 2.0}
    write(run / "vocab/report.json", vocab | {"english_lines": 500, "english_changed_share": 0.002})
    write(run / "lexicon/report.json", {"kept": 1234567, "dropped": {"too long": 3}})
    write(run / "data/report.json", {"target": {"tokens": 1000, "bytes_per_token": 3.2}, "english": {"words": 200}})
    write(run / "metrics.jsonl", log(final))
    write(run / "train/summary.json", {"seconds": 3700, "peak_mb": 900, "tokens": 2048, "tokens_per_second": 512.5})
    answer = {
        **{"language": "German", "prompt": "Im Anfang", "base": {"text": " of the world"}},
        "greedy": {"text": " war das Wort", "finish_reason": "stop"},
        "sampled": {"text": " schuf Gott Himmel und Erde", "finish_reason": "length"},
    }
    served = {"parity": {"max_logprob_difference": 2e-6, "tokens": 64}, "start_seconds": 30.5}
    write(run / "serve/result.json", served | {"ends": {"asked": 16, "stopped": 3}, "answers": [answer]})
    return recipe(run)


def recipe(run: Path, size: int = 100, init: str = "subword+lexicon", steps: int = 4, share: float = 0.25) -> Path:
    """Give a run another recipe."""
    parts = [f'name = "{run.name}"\nlanguage = "German"', f"[vocab]\nsize = {size}", f'[align]\ninit = "{init}"']
    parts += [f"[data]\nenglish_share = {share}", f"[train]\nsteps = {steps}"]
    write(run / "recipe.toml", "\n\n".join(parts) + "\n")
    return run


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a finished run of some name and score."""
    return lambda name, final: fill(tmp_path / name, final)


@pytest.fixture
def run(make: Make) -> Path:
    """A finished run that scores 1.8."""
    return make("run", 1.8)


def add_controls(folder: Path, base: float = 1.75, subword: float = 1.83) -> list[Path]:
    """A base trained on the same text, which needs more tokens for it, and plain subword rows."""
    plain = recipe(fill(folder / "own-tokens", base), size=0)
    put(plain / "vocab/report.json", "fertility_after", value=3.1)
    put(plain / "data/report.json", "target", "bytes_per_token", value=2.0)
    write(plain / "metrics.jsonl", log(base, tokens=819))
    return [plain, recipe(fill(folder / "subword", subword), init="subword")]


ROWS = {"house": (1.0, 0.0, 0.1), "water": (0.0, 1.0, 0.1), "river": (-0.2, 0.9, -0.4), "king": (-1.0, -1.0, 0.3)}
"""English tokens of the tiny model, and their rows."""


def add_model(run: Path, embedding: str = "model.embed_tokens.weight") -> Path:
    """Give a run an exported model whose new token ` Haus` has the row of `house`, and ` und` one between all."""
    texts = ["<s>", *(f"\u0120{word}" for word in ROWS), "\u0120xy", "\u0120Haus", "\u0120und"]
    rows = [(0.0, 0.0, 0.0), *ROWS.values(), (9.0, 9.0, 9.0), ROWS["house"], (0.1, 0.2, 0.0)]
    export = run / "export"
    export.mkdir(exist_ok=True)
    save_file({embedding: torch.tensor(rows)}, export / "model.safetensors")
    before = [(-1.0, -1.0, 0.3) if row is ROWS["house"] and n > 5 else row for n, row in enumerate(rows)]
    save_file({embedding: torch.tensor(before)}, run / "align/model.safetensors")
    write(export / "config.json", {"model_type": "tiny"})
    tokenizer = Tokenizer(models.WordLevel({text: n for n, text in enumerate(texts)}, unk_token="<s>"))
    tokenizer.save(str(export / "tokenizer.json"))
    write(run / "vocab/new_tokens.tsv", "id\ttext\tleft\tright\tcount\n6\t' Haus'\t1\t2\t9\n7\t' und'\t1\t2\t5\n")
    write(run / "align/rows.tsv", "id\ttext\trow\n6\t' Haus'\tlexicon\n7\t' und'\tsubword\n")
    write(run / "lexicon/clean.tsv", "# pairs\nhouse\tHaus\n")
    return run


def add_base(run: Path, folder: Path) -> Path:
    """A base of other weights, which the run's recipe names."""
    folder.mkdir()
    save_file({"model.embed_tokens.weight": torch.ones(2, 3)}, folder / "model.safetensors")
    write(folder / "config.json", {"model_type": "tiny"})
    recipe = run / "recipe.toml"
    recipe.write_text(f'{recipe.read_text()}\n[base]\nmodel = "{folder}"\n')
    return folder


def add_evaluation(folder: Path, sentences: dict[str, float], model: Path | None, measure: str = "sentences") -> Path:
    """Results of one measure of a model folder (None: of one that is nowhere else) as `prealign eval` writes them, with
    figures by layer and one that is absent."""
    interval = {"low": 0.4, "high": 0.5, "n": 7}
    figures: dict[str, Any] = {name: {"value": x, "note": f"of {name}"} | interval for name, x in sentences.items()}
    figures |= {f"layer/{n}/mexa": {"value": n / 4, "n": 7} for n in range(3)}
    figures["anc"] = {"absent": "too few sentences"}
    made_from = {"model": "f" * 64, "tokenizer": "e" * 64}
    if model is not None:
        made_from = {"model": model_digest(model), "tokenizer": tokenizer_digest(model)}
    content = {"format": 1, "measure": measure, "status": "done", "seconds": 2.0}
    write(folder / f"{measure}.json", content | {"figures": figures, "items_sha256": "", "made_from": made_from})
    return folder
