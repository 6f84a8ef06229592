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
    own = code.split("_")[0].split("-")[0].lower()
    for short, longs, known in _ROWS:
        if own in (short, *longs) or (not own and name.lower() == known.lower()):
            return Language(name or known, short, own if own in longs else longs[0])
    return Language(name, own, own if len(own) == 3 else "")


_ROWS = [
    (short, tuple(longs.split(",")), name)
    for short, longs, name in (row.split() for row in _TABLE.replace("\n", " ").split(";"))
]
