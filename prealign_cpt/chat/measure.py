"""Does it answer, in the language asked, and as the instruct model does in English?

    questions in either language, with and without a request for the other one --greedy answers--> share in the language
    the instruct model's own answers to English questions  --again, and scored-->  same answers, bits per byte of them
    held-out text                                          --scored-->             bits per byte

Four ways to ask: "english", "target" (no request: the answer's language is the question's), "english>target",
"target>english" ("Answer in German."). An answer counts if py3langid, choosing among all languages that it knows, says
that it is in the language asked. It is wrong on short answers, so the share is rather too low; an empty answer counts
as wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prealign_cpt.chat.crossing import ENGLISH, crossed
from prealign_cpt.chat.instructions import Messages
from prealign_cpt.chat.render import Renderer
from prealign_cpt.chat.rows import answer_batch
from prealign_cpt.evaluate.served import BATCH, end_ids, write_here
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.bits import held_out, score
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import signals
from prealign_cpt.run.folder import say
from prealign_cpt.text.languages import Identifier, language_of

MOST_TOKENS = 64
"""Of an answer; what is longer is cut, and judged as far as it goes."""

SHOWN = ("english", "target", "english>target", "target>english")

_PLAIN = (
    "Name three animals that live in the sea.", "What is the capital of France?", "Why do people sleep at night?",
    "Write one sentence about the rain.", "How many days are in a week?", "Explain what a bridge is for.",
    "Give me a short recipe for pancakes.", "What should I pack for a day at the beach?", "Who looks after sheep?",
    "Describe an apple in two sentences.", "What is the opposite of cold?", "Tell me something about the moon.",
)  # fmt: skip

QUESTIONS: tuple[Messages, ...] = tuple((("user", text), ("assistant", "")) for text in _PLAIN)
"""Asked in English where no instructions are held out."""


@dataclass(frozen=True)
class Questions:
    """Held-out conversations, each with an answer that is not looked at."""

    english: tuple[Messages, ...]
    target: tuple[Messages, ...]

    def ways(self, language: str) -> dict[str, list[Messages]]:
        """Conversations to be answered, by the way of asking; none for a way that nothing is known to ask in."""
        plain = {side: [one[:-1] for one in getattr(self, side)] for side in ("english", "target")}
        other = {"english": ("english>target", language), "target": ("target>english", ENGLISH)}
        asked = {way: [crossed(one, name)[:-1] for one in getattr(self, side)] for side, (way, name) in other.items()}
        return {way: found for way in SHOWN if (found := (plain | asked)[way])}


@torch.no_grad()
def measure(
    recipe: Recipe, models: dict[str, Subject], reference: str, template: Any, questions: Questions
) -> dict[str, Any]:
    """Figures of each model.

    Args:
        models: by name; each is loaded, measured and unloaded again.
        reference: the name of the one whose English answers are to be kept.
        template: chat template of models that have none.

    Returns:
        `models`: of each by name its figures; `answers`: of each, five, as they are: way, question, answer.
    """
    language = language_of(recipe.language)
    identify = Identifier()
    ways = questions.ways(language.name)
    answers = {}
    figures: dict[str, dict[str, Any]] = {}
    for name, subject in sorted(models.items(), key=lambda one: one[0] != reference):
        say(f"chat: asks {name} {sum(map(len, ways.values()))} questions")
        subject.tokenizer.chat_template = subject.tokenizer.chat_template or template
        renderer = Renderer(subject.tokenizer)
        ends = sorted({*end_ids(subject), *([] if renderer.turn_end is None else [renderer.turn_end])})
        answers[name] = {way: _answers(subject, renderer, asked, ends) for way, asked in ways.items()}
        found: dict[str, Any] = {"asked": {way: len(texts) for way, texts in answers[name].items()}}
        for way, texts in answers[name].items():
            code = "en" if way in ("english", "target>english") else language.short
            if code == "en" or code in identify.languages:
                found[f"language/{way}"] = _share([bool(text.strip()) and identify(text) == code for text in texts])
        kept = answers[reference].get("english", [])
        found["english_same"] = _share([a == b for a, b in zip(answers[name].get("english", []), kept, strict=True)])
        module = LanguageModelLoss(subject.model)
        scored = [(*one, ("assistant", text)) for one, text in zip(ways.get("english", []), kept, strict=True) if text]
        if scored:
            batch = answer_batch(scored, renderer, subject.start_token_id)
            found["english_answers_bpb"] = _rounded(score(module, [batch], subject.device).bits_per_byte)
        for side, batches in held_out(recipe, "test", subject.tokenizer).items():
            found[f"{side}_bpb"] = _rounded(score(module, batches, subject.device).bits_per_byte)
        subject.unload()
        figures[name] = found
    shown = {name: _shown(ways, of_model) for name, of_model in answers.items()}
    return {"language": language.name, "reference": reference, "models": figures, "answers": shown}


def table(measured: dict[str, Any]) -> str:
    """The figures of all models as Markdown."""
    language, models = measured["language"], measured["models"]
    said = {"english": "English", "target": language, "english>target": f"English, asked for {language}",
            "target>english": f"{language}, asked for English"}  # fmt: skip
    rows = {f"language/{way}": f"answers in the language asked: {text}" for way, text in said.items()}
    rows["english_same"] = f"English answers the same as {measured['reference']}'s"
    rows["english_answers_bpb"] = "bits per byte of these English answers"
    rows |= {f"{side}_bpb": f"bits per byte of {name} test text" for side, name in
             (("target", language), ("english", "English"))}  # fmt: skip
    lines = [f"| | {' | '.join(models)} |", "|---|" + "---|" * len(models)]
    for key, text in rows.items():
        values = [_cell(key, found) for found in models.values()]
        if any(value != "–" for value in values):
            lines.append(f"| {text} | {' | '.join(values)} |")
    return "\n".join(lines)


def _answers(subject: Subject, renderer: Renderer, asked: Sequence[Messages], ends: list[int]) -> list[str]:
    rows = [renderer.prompt(one) for one in asked]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    written = [""] * len(rows)
    for first in range(0, len(order), BATCH):
        signals.check()
        group = order[first : first + BATCH]
        for i, text in zip(group, write_here(subject, [rows[i] for i in group], MOST_TOKENS, None, ends), strict=True):
            written[i] = text
    return written


def _shown(ways: dict[str, list[Messages]], answers: dict[str, list[str]]) -> list[dict[str, str]]:
    """Five answers: the first of each way, then the second of each."""
    found = [
        {"way": way, "question": ways[way][i][-1][1], "answer": answers[way][i]}
        for i in range(5)
        for way in ways
        if i < len(ways[way])
    ]
    return found[:5]


def _cell(key: str, found: dict[str, Any]) -> str:
    if key not in found:
        return "–"
    if key.endswith("bpb"):
        return f"{found[key]:.3f}"
    count = found["asked"][key.removeprefix("language/") if "/" in key else "english"]
    return f"{round(found[key] * count)} of {count}"


def _share(hits: Sequence[bool]) -> float:
    return _rounded(sum(hits) / len(hits)) if hits else 0.0


def _rounded(value: float) -> float:
    return round(value, 4)
