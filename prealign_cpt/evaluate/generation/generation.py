"""What the model writes: in the right language? (LPR, WPR) and translated well? (chrF++)

    beginnings of held-out text --continue--> lpr, wpr, coverage      of the target language, and of English
    parallel text --few-shot prompts--> chrf                          into the target language, and out of it

English prompts must stay English: that is a figure of retention. See confusion.py and translation.py for the measures.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np

from prealign_cpt.evaluate.figures import Absent, Result, share
from prealign_cpt.evaluate.generation import confusion, translation
from prealign_cpt.evaluate.generation.generate import write
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import LANGUAGES, NoDataError, Work
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.languages import Language, language_of

REMEDY = 'pip install "prealign-cpt[eval]"'

MOST_PROMPTS, PROMPT_CHARACTERS, CONTINUE_TOKENS = 100, 60, 48
"""Prompts in each language, what is taken of a line, and the tokens written after it."""

MOST_TRANSLATED = 200
"""Sentences to translate in each direction."""

ROOM, MOST_TOKENS = 1.5, 256
"""A translation may have so many times the tokens of the longest reference; and at most."""

MAX_LID_ERROR = 0.2
"""With an identifier that is wrong more often, a pass rate says nothing."""

Writer = Callable[..., list[str]]


def measure(subject: Subject, work: Work) -> Result:
    """`lpr/LANGUAGE`, `wpr/LANGUAGE`, `coverage/LANGUAGE`, `lid_error/LANGUAGE`, and `chrf/DIRECTION` with
    `chrf_copy/DIRECTION`, the control.

    Raises:
        DataError, UnavailableError: see `write`.
    """
    language = language_of(work.language, work.code or (work.languages[1] if work.languages else ""))
    return {**_confusion(subject, work, language), **_translation(subject, work, language)}


def _confusion(subject: Subject, work: Work, language: Language) -> Result:
    names = [f"{kind}/{side}" for kind in ("lpr", "coverage", "wpr") for side in LANGUAGES]
    if find_spec("py3langid") is None:
        return dict.fromkeys(names, Absent(f"py3langid is not installed: {REMEDY}"))
    try:
        texts = {side: held_out_text(work, side) for side in LANGUAGES}
        identify = confusion.Identifier(language.short, texts["target"], texts["english"])
    except (NoDataError, ValueError) as error:
        return dict.fromkeys(names, Absent(str(error)))
    result: Result = {}
    told = {}
    for side in LANGUAGES:
        wrong, shown = identify.errors(texts[side], side)
        if not shown:
            return dict.fromkeys(names, Absent(f"no line of the {side} text is long enough to check the identifier on"))
        result[f"lid_error/{side}"] = share(
            np.arange(shown) < wrong, "held-out lines that py3langid does not recognise"
        )
        told[side] = f"identifier wrong on {wrong} of {shown} held-out lines"
        if wrong > MAX_LID_ERROR * shown:
            return result | dict.fromkeys(names, Absent(f"{told[side]} ({side}); no pass rate can be trusted"))
    words = confusion.english_vocabulary(texts["english"])
    for side in LANGUAGES:
        given = work.prompts_target if side == "target" else work.prompts_english
        prompts = [*given, *beginnings(texts[side])][:MOST_PROMPTS][: work.max_items]
        if not prompts:
            result |= dict.fromkeys(
                (f"lpr/{side}", f"wpr/{side}"), Absent(f"no {side} line is long enough for a prompt")
            )
            continue
        written = write(subject, prompts, CONTINUE_TOKENS, seed=work.seed, label=f"continue {side}")
        rates = confusion.rate(written, side, identify, words)
        known = np.array([verdict != confusion.UNKNOWN for verdict in rates.verdicts])
        result[f"lpr/{side}"] = share(
            np.array([verdict == confusion.PASSED for verdict in rates.verdicts]),
            f"of all; {int(known.sum())} of {len(known)} could be judged; {told[side]}",
        )
        result[f"coverage/{side}"] = share(known, "completions with a line that could be judged")
        result[f"wpr/{side}"] = (
            Absent("both languages are written in one script")
            if rates.clean is None
            else share(np.array(rates.clean), "of those that passed: without a word of the other language")
            if rates.clean
            else Absent("no completion passed")
        )
    return result


def held_out_text(work: Work, side: str) -> list[str]:
    """Held-out text of a language: its first set, else its side of the parallel text.

    Raises:
        NoDataError: neither is there.
    """
    sets = work.target if side == "target" else work.english
    if sets:
        return work.sample(work.documents(side, sets[0][0]))
    if work.parallel is None:
        raise NoDataError(f"no local data: no {side} text; give it with --{side} or --parallel")
    return [pair[side == "target"] for pair in work.pairs()]


def beginnings(texts: Sequence[str]) -> list[str]:
    """The beginning of one line of each text, cut between words where there are any."""
    found = []
    for text in texts:
        line = max(text.split("\n"), key=len)
        if not confusion.long_enough(line) or len(line) < 1.5 * PROMPT_CHARACTERS:
            continue
        space = line.rfind(" ", PROMPT_CHARACTERS // 2, PROMPT_CHARACTERS)
        found.append(line[: space if space > 0 else PROMPT_CHARACTERS])
    return found


def _translation(subject: Subject, work: Work, language: Language) -> Result:
    names = [f"{kind}/{way}" for kind in ("chrf", "chrf_copy") for way in ("english_to_target", "target_to_english")]
    if find_spec("sacrebleu") is None:
        return dict.fromkeys(names, Absent(f"sacrebleu is not installed: {REMEDY}"))
    try:
        pairs = work.pairs()
    except NoDataError as error:
        return dict.fromkeys(names, Absent(str(error)))
    if len(pairs) < 2 * translation.SHOTS:
        raise DataError(
            f"{work.parallel}: {len(pairs)} pairs; {2 * translation.SHOTS} are needed to translate by example"
        )
    shots, asked = translation.examples(pairs)
    asked = asked[:MOST_TRANSLATED]
    labels = ("English", language.name or "Translation")
    result: Result = {}
    for way, order in (("english_to_target", (0, 1)), ("target_to_english", (1, 0))):
        sources, references = ([pair[side] for pair in asked] for side in order)
        turned = [(a, b) if order == (0, 1) else (b, a) for a, b in shots]
        prompts = [translation.prompt(turned, text, (labels[order[0]], labels[order[1]])) for text in sources]
        wanted = subject.tokenizer(references, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        room = min(MOST_TOKENS, round(ROOM * max(map(len, wanted))))
        written = write(subject, prompts, room, "\n", work.seed, f"translate {way}")
        answers = [text.strip() for text in written]
        note = f"{translation.SHOTS} examples, greedy; {answers.count('')} of {len(answers)} empty"
        result[f"chrf/{way}"] = translation.chrf(answers, references, note)
        result[f"chrf_copy/{way}"] = translation.chrf(sources, references, "control: the source copied")
    return result
