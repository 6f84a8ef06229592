"""The page of a tiny run, as a browser has it."""

import html
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.report import write_report

from .conftest import add_evaluation, add_model

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH")
def test_a_browser_shows_plots_and_tables_with_the_runs_own_numbers(
    make: Callable[[str, float], Path], tmp_path: Path
) -> None:
    run = make("run", 1.812)
    add_model(run)
    add_evaluation(run / "evaluation", {"mexa": 0.4321})
    write_report(run, make("control", 1.83))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [str(BROWSER), *flags, (run / "report/index.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    body = done.stdout[done.stdout.index("<body") :]
    # What the parser moved out of its place, such as a table in a paragraph, would stand in another order.
    headings = re.findall(r"<h2>([^<]*)</h2>", body)
    assert headings[:4] == ["Learning curve", "Evaluation", "New tokens among English ones", "Contrastive stage"]
    cells = set(map(html.unescape, re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", body)))
    assert {"1.812", "1.830", "2.986", "0.432", "[0.400, 0.500]", "Haus (house)"} <= cells
    figures = re.findall(r"<svg.*?</svg>", body, flags=re.S)
    assert len(figures) == 8, "two curves, two losses, lengths of tokens, main figures, layers, projection"
    for kind in ('class="line s1"', 'class="bar s0"', 'class="whisker"', 'class="heat"', 'class="spot s1"'):
        assert any(kind in figure for figure in figures), kind
    assert "house 1.00" in body
