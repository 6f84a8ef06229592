"""Names and codes of languages: what a recipe, FLORES and py3langid each call the same one.

"German" | "de" | "deu" | "deu_Latn"  --language_of-->  Language("German", "de", "deu")
"""

from dataclasses import dataclass

_TABLE = """
af afr Afrikaans; am amh Amharic; an arg Aragonese; ar ara,arb Arabic; as asm Assamese; az aze,azj Azerbaijani;
ba bak Bashkir; be bel Belarusian; bg bul Bulgarian; bn ben Bengali; br bre Breton; bs bos Bosnian; ca cat Catalan;
cs ces Czech; cy cym Welsh; da dan Danish; de deu German; dz dzo Dzongkha; el ell Greek; en eng English;
eo epo Esperanto; es spa Spanish; et est,ekk Estonian; eu eus Basque; fa fas,pes Persian; fi fin Finnish;
fo fao Faroese; fr fra French; fy fry Frisian; ga gle Irish; gd gla Gaelic; gl glg Galician; gu guj Gujarati;
ha hau Hausa; he heb Hebrew; hi hin Hindi; hr hrv Croatian; ht hat Haitian; hu hun Hungarian; hy hye Armenian;
id ind Indonesian; ig ibo Igbo; is isl Icelandic; it ita Italian; ja jpn Japanese; jv jav Javanese; ka kat Georgian;
kk kaz Kazakh; km khm Khmer; kn kan Kannada; ko kor Korean; ku kur,kmr Kurdish; ky kir Kyrgyz; la lat Latin;
lb ltz Luxembourgish; lg lug Ganda; ln lin Lingala; lo lao Lao; lt lit Lithuanian; lv lav,lvs Latvian;
mg mlg,plt Malagasy; mk mkd Macedonian; ml mal Malayalam; mn mon,khk Mongolian; mr mar Marathi; ms msa,zsm Malay;
mt mlt Maltese; my mya Burmese; ne nep,npi Nepali; nl nld Dutch; nn nno Nynorsk; no nor,nob Norwegian; oc oci Occitan;
om orm,gaz Oromo; or ori,ory Odia; pa pan Punjabi; pl pol Polish; ps pus,pbt Pashto; pt por Portuguese;
qu que,quy Quechua; ro ron Romanian; ru rus Russian; rw kin Kinyarwanda; sa san Sanskrit; se sme Sami; si sin Sinhala;
sk slk Slovak; sl slv Slovenian; sn sna Shona; so som Somali; sq sqi,als Albanian; sr srp Serbian; st sot Sotho;
sv swe Swedish; sw swa,swh Swahili; ta tam Tamil; te tel Telugu; tg tgk Tajik; th tha Thai; tk tuk Turkmen;
tl tgl Tagalog; tr tur Turkish; tt tat Tatar; ug uig Uyghur; uk ukr Ukrainian; ur urd Urdu; uz uzb,uzn Uzbek;
vi vie Vietnamese; vo vol Volapük; wa wln Walloon; xh xho Xhosa; yo yor Yoruba; zh zho,cmn Chinese; zu zul Zulu
"""
"""ISO 639-1, ISO 639-3 (macrolanguage first, then FLORES's member), English name."""


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

    A language that is not in the table keeps what was given of it.
    """
    plain = code.split("_")[0].split("-")[0].lower()  # without the script
    for short, longs, known in _ROWS:
        if plain in (short, *longs) or (not plain and name.lower() == known.lower()):
            return Language(name or known, short, plain if plain in longs else longs[0])
    return Language(name, plain, plain if len(plain) == 3 else "")


_ROWS = [
    (short, tuple(longs.split(",")), name)
    for short, longs, name in (row.split() for row in _TABLE.replace("\n", " ").split(";"))
]

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
