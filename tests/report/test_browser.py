"""The page of a tiny run, as a browser has it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from prealign_cpt.report import write_report

from .conftest import Make, add_controls, add_evaluation, add_model

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH")

PHONE = """<!DOCTYPE html><body style="margin:0">
<iframe src="index.html" style="width:390px;height:800px;border:0"></iframe>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  for (const part of page.querySelectorAll("details")) part.open = true;
  const all = selector => [...page.querySelectorAll(selector)];
  const room = page.documentElement.clientWidth;
  const right = one => one.getBoundingClientRect().right;
  const size = one => parseFloat(getComputedStyle(one).fontSize) * one.ownerSVGElement.getScreenCTM().a;
  const beyond = [
    ...all("main *").filter(one => !one.closest(".wide, svg") && right(one) > room + 1),
    ...all("svg text").filter(one => right(one) > right(one.ownerSVGElement) + 1),
  ];
  document.body.dataset.found = JSON.stringify({
    page: page.documentElement.scrollWidth,
    room: room,
    beyond: beyond.map(one => one.outerHTML.slice(0, 120)),
    scrolled: all(".wide").filter(one => one.scrollWidth > one.clientWidth).length,
    letters: Math.min(...all("svg text").map(size)),
    cards: all("table.cards td").filter(one => one.innerText && right(one) <= room).length,
    hinted: all(".wide").filter(one => getComputedStyle(one).backgroundImage.includes("gradient")).length,
  });
};
</script>"""
"""What a narrow window shows; headless browsers have no window of this width, so the page stands in a frame."""


def browse(page: Path, profile: Path) -> str:
    """The document after its scripts ran, from <body> on."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    flags += ["--allow-file-access-from-files"]  # the frame is read by the page around it
    done = subprocess.run([str(BROWSER), *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout[done.stdout.index("<body") :]


@pytest.fixture
def page(make: Make, tmp_path: Path) -> Path:
    run = add_model(make("run", 1.812))
    add_evaluation(
        run / "evaluation", {"mexa": 0.4321, "a figure with a long name / of many words": 0.5}, run / "export"
    )
    write_report(run, add_controls(tmp_path))
    return run / "report/index.html"


def test_a_browser_shows_plots_and_tables_with_the_runs_own_numbers(page: Path, tmp_path: Path) -> None:
    body = browse(page, tmp_path / "profile")
    # What the parser moved out of its place, such as a table in a paragraph, would stand in another order.
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", body)
    assert headings[:4] == ["Learning curve", "Generated text", "Evaluation", "New tokens among English ones"]
    cells = set(map(html.unescape, re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", body)))
    assert {"1.812", "1.830", "2.986", "0.432 [0.400, 0.500]", "Haus (house)"} <= cells
    assert body.count("<figure>") == 5, "two curves, two losses, layers"
    for kind in ('class="line s1"', 'class="bar s0"', 'class="whisker"'):
        assert kind in body
    assert "house 1.00" in body


def test_on_a_phone_tables_scroll_in_their_boxes_and_the_page_does_not(page: Path, tmp_path: Path) -> None:
    phone = page.with_name("phone.html")
    phone.write_text(PHONE, encoding="utf-8")
    shown = re.search(r'data-found="([^"]*)"', browse(phone, tmp_path / "profile"))
    assert shown is not None
    found = json.loads(html.unescape(shown[1]))
    assert found["page"] == found["room"] <= 390 and found["beyond"] == []
    assert found["scrolled"] >= 2, "some tables are wider than a phone, so the bound above is not idle"
    assert found["letters"] >= 11, "pixels, of the smallest text in a plot"
    assert found["cards"] == 5 * 6 - 1, "a phone shows the result's figures whole"
    assert found["hinted"] > found["scrolled"], "an edge shows that there is more to scroll to"
