"""The page's section of generated text: the trained model's answers to each prompt, and the base's beside them."""

import re
from html import escape
from typing import Any

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.markup import Section, not_done
from prealign_cpt.report.plot import colour
from prealign_cpt.report.record import Record

TITLE = "Generated text"

ENDS = {"stop": "ended by itself", "length": "cut at the length limit"}


def samples(record: Record) -> Section:
    """The section, or why there is no generated text."""
    answers = record.serve.at("answers")
    if isinstance(answers, Absent):
        return not_done(TITLE, answers.reason)
    asked = [entry for entry in answers if isinstance(entry, dict)] if isinstance(answers, list) else []
    if not asked:
        return not_done(TITLE, "no prompt was asked")
    ours, base = record.ours, record.base
    kinds = (
        ("greedy", f"{ours.name}, greedy", ours.style),
        ("sampled", f"{ours.name}, sampled", ours.style),
        ("base", base.name, base.style),
    )
    parts = []
    for entry in asked:
        language = str(entry.get("language", ""))
        # Names such as "target" are no language tags, and a wrong tag makes a screen reader mispronounce the text.
        lang = f' lang="{language}"' if re.fullmatch("[a-z]{2,3}", language) else ""
        cards = "".join(_card(entry.get(key), name, style, lang) for key, name, style in kinds)
        prompt = (
            f'<span class="muted">{escape(language)}</span> <bdi{lang}>{escape(str(entry.get("prompt", "")))}</bdi>'
        )
        parts.append(f'<h3>{prompt}</h3><div class="answers">{cards}</div>')
    stopped, of = (record.serve.number("ends", key) for key in ("stopped", "asked"))
    if not isinstance(stopped, Absent) and not isinstance(of, Absent):
        parts.append(
            f'<p class="note">Given the end of a held-out document, {stopped:.0f} of {of:.0f} sampled texts of '
            f"{escape(ours.name)} ended by themselves.</p>"
        )
    return Section(TITLE, "\n".join(parts))


def _card(answer: Any, name: str, style: int | None, lang: str) -> str:
    if not isinstance(answer, dict):
        return ""
    end = str(answer.get("finish_reason") or "")
    told = f' <span class="muted">{escape(ENDS.get(end, end))}</span>' if end else ""
    text = escape(str(answer.get("text", "")).strip()) or "(empty)"
    return (
        f'<figure class="answer {colour(style)}"><figcaption><b>{escape(name)}</b>{told}</figcaption>'
        f'<div{lang} dir="auto">{text}</div></figure>'
    )
