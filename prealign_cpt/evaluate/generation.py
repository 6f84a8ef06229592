"""What the model writes: in the right language? (LPR, WPR, letters of the other script) and translated well? (chrF++)

    beginnings of held-out text --continue--> lpr, wpr, coverage      of the target language, and of English
                                         `--> mixed/...               letters of the other language's script
    parallel text --few-shot prompts--> chrf                          into the target language, and out of it

English prompts must stay English: that is a figure of retention. A base model is asked to translate by example; beside
its own chrF++ (Popovic 2017) stands that of copying the source: a model that only repeats scores that much, far above 0
between languages that share letters.
"""

import json
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from prealign_cpt.evaluate import confusion
from prealign_cpt.evaluate.data import LANGUAGES, EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.served import write
from prealign_cpt.evaluate.statistics import mean_of, share
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.bits import windows
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.languages import Language, language_of, long_enough

REMEDY = 'pip install "prealign-cpt[eval]"'

MOST_PROMPTS, PROMPT_CHARACTERS, CONTINUE_TOKENS = 100, 60, 48
"""Prompts in each language, what is taken of a line, and the tokens written after it."""

MIXED_PROMPT, MIXED_TOKENS = 16, 24
"""Tokens of a held-out window that are continued to count letters, and tokens written."""

NO_LETTER = "no letter of either script was written"

SHOTS, MOST_TRANSLATED = 4, 200
"""Example pairs in each prompt, and sentences to translate in each direction."""

ROOM, MOST_TOKENS = 1.5, 256
"""A translation may have so many times the tokens of the longest reference; and at most."""

MAX_LID_ERROR = 0.2
"""With an identifier that is wrong more often, a pass rate says nothing."""

ROUNDS, DECIMALS = 1000, 9
"""Of sacrebleu's bootstrap, and with which it tells an interval."""


def measure(subject: Subject, data: EvaluationData) -> Result:
    """`lpr/LANGUAGE`, `wpr/LANGUAGE`, `coverage/LANGUAGE`, `lid_error/LANGUAGE`, and `chrf/DIRECTION` with
    `chrf_copy/DIRECTION`, the control.

    Raises:
        DataError, UnavailableError: see `write`.
    """
    language = language_of(data.language, data.code or (data.languages[1] if data.languages else ""))
    return {**_confusion(subject, data, language), **_translation(subject, data, language)}


def mixed_output(subject: Subject, data: EvaluationData) -> Result:
    """`mixed/LANGUAGE`: of the letters of both languages' scripts that are written after its prompts, the share in the
    other one's. Only where the scripts differ, English-Clone or Russian, say. PreAlign (arXiv 2407.16222, section 3.2)
    switches words in the input alone in order to keep this rate low.

    Raises:
        NoDataError: no prompts are asked for, or no text of both languages is given.
        DataError, UnavailableError: see `write`.
    """
    if not data.mixed_prompts:
        raise NoDataError("evaluate.mixed_prompts of the recipe is 0: no continuations are asked for")
    texts = {}
    for side in LANGUAGES:
        size = 32 * MIXED_PROMPT  # bytes: enough for the tokens of a prompt even where each is several
        texts[side] = windows(data.main_documents(side), size, data.mixed_prompts * size)
    scripts = {side: confusion.main_script(some) for side, some in texts.items()}
    if scripts["target"] == scripts["english"] or not all(scripts.values()):
        reason = f"both languages are written in one script ({scripts['english'] or 'none'})"
        return {f"mixed/{side}": Absent(reason) for side in LANGUAGES}
    result: Result = {}
    for side, other in (LANGUAGES, LANGUAGES[::-1]):
        rows = [ids[:MIXED_PROMPT] for ids in subject.encode(texts[side]) if len(ids) >= MIXED_PROMPT]
        prompts = [subject.tokenizer.decode(ids) for ids in rows[: data.mixed_prompts]]
        if not prompts:
            result[f"mixed/{side}"] = Absent(f"no held-out {side} text has {MIXED_PROMPT} tokens")
            continue
        written = write(subject, prompts, MIXED_TOKENS, seed=data.seed, label=f"mixed {side}")
        counts = [Counter(map(confusion.script_of, text)) for text in written]
        wrong, right = (np.array([count[scripts[which]] for count in counts]) for which in (other, side))
        letters = wrong + right
        some = letters > 0
        result[f"mixed/{side}"] = (
            mean_of(wrong[some] / letters[some], letters[some], f"{letters.sum()} letters; interval over continuations")
            if some.any()
            else Absent(NO_LETTER)
        )
    return result


def beginnings(texts: Sequence[str]) -> list[str]:
    """The beginning of one line of each text, cut between words where there are any."""
    found = []
    for text in texts:
        line = max(text.split("\n"), key=len)
        if not long_enough(line) or len(line) < 1.5 * PROMPT_CHARACTERS:
            continue
        space = line.rfind(" ", PROMPT_CHARACTERS // 2, PROMPT_CHARACTERS)
        found.append(line[: space if space > 0 else PROMPT_CHARACTERS])
    return found


def examples(pairs: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs for the examples, the shortest of the last quarter, and all other pairs, which are scored."""
    last = range(len(pairs) - max(SHOTS, len(pairs) // 4), len(pairs))
    chosen = sorted(sorted(last, key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))[:SHOTS])
    return [pairs[i] for i in chosen], [pair for i, pair in enumerate(pairs) if i not in set(chosen)]


def prompt(shots: Sequence[tuple[str, str]], source: str, names: tuple[str, str]) -> str:
    """`NAME: text` lines, the last one open.

    Args:
        shots: (source, translation).
        names: of the source's language and the translation's.
    """
    told = [f"{names[0]}: {a}\n{names[1]}: {b}\n\n" for a, b in shots]
    return "".join(told) + f"{names[0]}: {source}\n{names[1]}:"


def chrf(hypotheses: Sequence[str], references: Sequence[str], note: str = "") -> Figure:
    """Corpus chrF++ of sacrebleu (0 to 100), with its signature in the note.

    The corpus score comes from summed counts of n-grams, so it is no mean over sentences: the 95 % interval is
    sacrebleu's own, from resampled sentences (Koehn 2004), symmetric about their mean. There is none where a drawn set
    of sentences has not a single match, which sacrebleu cannot compute: then hardly anything was written.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF(word_order=2)
    written, wanted = list(hypotheses), [list(references)]
    value = float(metric.corpus_score(written, wanted).score)
    signature = str(metric.get_signature())
    low = high = None
    if len(written) > 1 and value > 0:
        try:
            drawn = metric.corpus_score(written, wanted, n_bootstrap=ROUNDS)
        except TypeError:  # sacrebleu 2.6 cannot average Python's 0.0 with numpy's numbers
            note = f"{note}; no interval, since nothing matches in some draws".removeprefix("; ")
        else:
            signature = str(metric.get_signature())
            told = json.loads(drawn.format(width=DECIMALS, signature=signature, is_json=True))
            middle, half = told["confidence_mean"], told["confidence_var"]
            low, high = min(value, middle - half), max(value, middle + half)
    return Figure(value, low, high, len(written), f"{note}; chrF++ {signature}".removeprefix("; "))


def _confusion(subject: Subject, data: EvaluationData, language: Language) -> Result:
    names = [f"{kind}/{side}" for kind in ("lpr", "coverage", "wpr") for side in LANGUAGES]
    if find_spec("py3langid") is None:
        return dict.fromkeys(names, Absent(f"py3langid is not installed: {REMEDY}"))
    try:
        texts = {side: _held_out_text(data, side) for side in LANGUAGES}
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
            return result | dict.fromkeys(names, Absent(f"no pass rate can be trusted: {side}: {told[side]}"))
    words = confusion.english_vocabulary(texts["english"])
    for side in LANGUAGES:
        prompts = [*getattr(data, f"prompts_{side}"), *beginnings(texts[side])][: min(MOST_PROMPTS, data.max_items)]
        if not prompts:
            reason = f"no {side} line is long enough for a prompt"
            result |= dict.fromkeys((f"lpr/{side}", f"wpr/{side}"), Absent(reason))
            continue
        written = write(subject, prompts, CONTINUE_TOKENS, seed=data.seed, label=f"continue {side}")
        rates = confusion.rate(written, side, identify, words)
        verdicts = np.array(rates.verdicts)
        known = verdicts != confusion.UNKNOWN
        note = f"of all; {int(known.sum())} of {len(known)} could be judged; {told[side]}"
        result[f"lpr/{side}"] = share(verdicts == confusion.PASSED, note)
        result[f"coverage/{side}"] = share(known, "completions with a line that could be judged")
        result[f"wpr/{side}"] = (
            Absent("both languages are written in one script")
            if rates.clean is None
            else share(np.array(rates.clean), "of those that passed: without a word of the other language")
            if rates.clean
            else Absent("no completion passed")
        )
    return result


def _held_out_text(data: EvaluationData, side: str) -> list[str]:
    """Held-out text of a language, else its side of the parallel text.

    Raises:
        NoDataError: neither is there.
    """
    if getattr(data, side):
        return data.sample(data.main_documents(side))
    if data.parallel is None:
        raise NoDataError(f"no local data: no {side} text; give it with --{side} or --parallel")
    return [pair[side == "target"] for pair in data.pairs()]


def _translation(subject: Subject, data: EvaluationData, language: Language) -> Result:
    names = [f"{kind}/{way}" for kind in ("chrf", "chrf_copy") for way in ("english_to_target", "target_to_english")]
    if find_spec("sacrebleu") is None:
        return dict.fromkeys(names, Absent(f"sacrebleu is not installed: {REMEDY}"))
    try:
        pairs = data.pairs()
    except NoDataError as error:
        return dict.fromkeys(names, Absent(str(error)))
    if len(pairs) < 2 * SHOTS:
        raise DataError(f"{data.parallel}: {len(pairs)} pairs; {2 * SHOTS} are needed to translate by example")
    shots, asked = examples(pairs)
    asked = asked[:MOST_TRANSLATED]
    labels = ("English", language.name or "Translation")
    result: Result = {}
    for way, (source, goal) in (("english_to_target", (0, 1)), ("target_to_english", (1, 0))):
        sources, references = [pair[source] for pair in asked], [pair[goal] for pair in asked]
        turned = [(pair[source], pair[goal]) for pair in shots]
        prompts = [prompt(turned, text, (labels[source], labels[goal])) for text in sources]
        room = min(MOST_TOKENS, round(ROOM * max(map(len, subject.encode(references)))))
        answers = [text.strip() for text in write(subject, prompts, room, "\n", data.seed, f"translate {way}")]
        note = f"{SHOTS} examples, greedy; {answers.count('')} of {len(answers)} empty"
        result[f"chrf/{way}"] = chrf(answers, references, note)
        result[f"chrf_copy/{way}"] = chrf(sources, references, "control: the source copied")
    return result
