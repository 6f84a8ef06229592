"""Names and codes of languages: what a recipe, FLORES and py3langid each call the same one.

"German" | "de" | "deu" | "deu_Latn"  --language_of-->  Language("German", "de", "deu")
"""

from dataclasses import dataclass

import langcodes


@dataclass(frozen=True)
class Language:
    """What is known of a language; a part that is not known is empty."""

    name: str
    short: str
    """ISO 639-1 where there is one, else ISO 639-3."""
    long: str
    """ISO 639-3."""


def language_of(name: str = "", code: str = "") -> Language:
    """The language that a name or a code means; a code (with or without a script) goes before a name.

    A name may be a code too. A language that `langcodes` does not know keeps what was given of it.
    """
    given = (code or name).split("_")[0].split("-")[0].lower()
    try:
        found = langcodes.get(given) if code or _is_code(given) else langcodes.find(name)
        known = langcodes.get(langcodes.standardize_tag(found.language or "", macro=True))
        if not known.is_valid():
            raise LookupError
    except (LookupError, ValueError, AttributeError):
        return Language(name, given if code else "", given if code and len(given) == 3 else "")
    english = known.language_name()
    long = given if len(given) == 3 and _is_code(given) else known.to_alpha3()
    short = {"fil": "tl"}.get(str(known.language), str(known.language))  # as ISO 639-1 and py3langid call Tagalog
    return Language(english if not name or _is_code(name) else name, short, long)


def _is_code(text: str) -> bool:
    plain = text.split("_")[0].split("-")[0]
    return len(plain) in (2, 3) and plain.islower() and langcodes.tag_is_valid(plain)


class Identifier:
    """Says which language a text is in, by py3langid: the code that `Language.short` has.

    Attributes:
        languages: codes that it can tell apart.
    """

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.languages = frozenset(map(str, self._model.labels))

    def only(self, *languages: str) -> None:
        """Take no other languages into account."""
        self._model.set_languages(languages)

    def __call__(self, text: str) -> str:
        return self.sure(text)[0]

    def sure(self, text: str) -> tuple[str, float]:
        """The language, and the probability that it has among those that are possible."""
        code, probability = self._model.classify(text)
        return str(code), float(probability)


MIN_WORDS, MIN_LETTERS = 5, 20
"""A line with fewer words and fewer letters (for scripts without spaces) is too short to identify."""


def long_enough(line: str) -> bool:
    """Whether a line can be identified."""
    return len(line.split()) >= MIN_WORDS or sum(map(str.isalpha, line)) >= MIN_LETTERS


_FUNCTION = """
a an the this that these those each every either neither both all any some no none such other another
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
we us our ours ourselves they them their theirs themselves who whom whose which what
about above across after against along among around as at before behind below beneath beside between beyond by
despite down during except for from in inside into like near of off on onto out outside over past per since through
throughout till to toward towards under until unto up upon via with within without
and but or nor so yet if than then though although because while whereas whether unless when where why how
am is are was were be been being do does did done doing have has had having
can could may might must shall should will would ought cannot
not there here very too also just only even ever never
don't doesn't didn't isn't aren't wasn't weren't haven't hasn't hadn't won't wouldn't can't couldn't shouldn't
i'm you're he's she's it's we're they're i've you've we've they've i'll you'll he'll she'll it'll we'll they'll
i'd you'd he'd she'd we'd they'd that's there's what's who's let's
"""

FUNCTION_WORDS = frozenset(_FUNCTION.split())
"""Closed word classes: determiners, pronouns, prepositions, conjunctions, auxiliary verbs, contractions, particles."""

_CONTENT = """
time year day night week month people man woman child mother father brother sister friend house home room door
window street city country world water fire earth sky sun moon star tree flower leaf bird dog cat horse fish bread
meat milk salt sugar hand foot head eye ear mouth heart blood body life death love war peace work money school book
letter word language question answer king queen doctor teacher
red green white black yellow big large little young new old good bad beautiful cold early strong heavy
go come see know think give take find tell ask feel leave call speak write read eat drink sleep buy sell
one two three four five seven eight nine hundred
"""

CONTENT_WORDS = frozenset(_CONTENT.split())
"""Open-class words that hardly any lexicon lacks and few other languages spell alike."""
