"""What `prealign trajectory` and `prealign layers` found, on the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.analysis.layers import reading
from prealign_cpt.analysis.trajectory import derived
from prealign_cpt.report import write_report
from prealign_cpt.run.errors import DataError

from .conftest import Make, page_of

STEPS = [0, 1, 2, 4]


def _put(run: Path, name: str, content: dict[str, Any]) -> None:
    (run / name).mkdir()
    (run / name / f"{name}.json").write_text(json.dumps(content))


def _trajectory() -> dict[str, Any]:
    words, bits = [[0.1, 0.0], [0.1, 0.2], [0.1, 0.4], [0.2, 0.1]], [3.0, 2.5, 2.25, 2.0]
    series = {
        "target_bpb": {"title": "target bpb", "lower": True, "values": bits, **derived(STEPS, bits, True)},
        "words": {"title": "words P@1", "lower": False, "values": words, **derived(STEPS, words, False)},
    }
    return {"steps": STEPS, "series": series, "absent": {"sentences": "no <parallel> text"}}


def _layers() -> dict[str, Any]:
    figures = {"trained": 2.0, "start": 3.0, "new rows": 2.8, "blocks 1-2": 2.1}
    by = {name: {"target_bpb": value, "english_bpb": 1.0} for name, value in figures.items()}
    row = {f"{name}_{kind}": 0.5 for name in ("english", "target", "languages_start", "languages", "mismatched")
           for kind in ("cka", "anc")}  # fmt: skip
    content: dict[str, Any] = {
        "language": "German", "trained": by["trained"], "start": by["start"], "absent": {"words": "no lexicon"},
        "groups": {name: {"0": by[name], "0.5": by[name], "random": by[name]} for name in ("new rows", "blocks 1-2")},
        "alike": {"of": "parallel lines", "pairs": 12, "layers": [row, row | {"target_cka": -0.25}]},
    }  # fmt: skip
    return content | {"reading": reading(content)}


def test_heat_maps_and_tables_stand_on_the_page(make: Make) -> None:
    run = make("run", 1.8)
    assert "When it was learned" not in page_of(run).source
    _put(run, "trajectory", _trajectory())
    _put(run, "layers", _layers())
    page = page_of(run)
    text = " ".join(page.text.split())
    assert "words P@1, layer by step" in text and "sentences: no <parallel> text" in text
    heat = re.search(r'<table class="heat">.*?</table>', page.source, flags=re.S)
    assert heat is not None
    rows = [re.findall(r"(?:%,transparent\)\">|row\">)([^<]*)<", line) for line in heat[0].split("<tr>")[2:]]
    assert rows == [["1", "0.00", "0.20", "0.40", "0.10"], ["0", "0.10", "0.10", "0.10", "0.20"]]
    assert "60.0%,transparent" in heat[0] and " 0.0%,transparent" in heat[0]
    assert "0.400 (1)" in text and "0.200 (0)" in text
    assert "Training gained 1.000 bits per byte in German; put back alone, new rows cost most of it, +0.800" in text
    assert "blocks 1-2 least, +0.100" in text and "-0.25 / 0.50" in text and "CKA by layer" in text


def test_a_damaged_file_is_named(make: Make) -> None:
    run = make("run", 1.8)
    _put(run, "trajectory", {"steps": [0]})
    with pytest.raises(DataError, match=r"trajectory\.json: damaged"):
        write_report(run)
