"""Made-up text of which everything is known: sentences in English and German, no two alike."""

import random
from itertools import count

PEOPLE = {
    "en": [
        "king",
        "farmer",
        "teacher",
        "sailor",
        "baker",
        "hunter",
        "painter",
        "miller",
        "shepherd",
        "doctor",
        "priest",
    ],
    "de": ["König", "Bauer", "Lehrer", "Seemann", "Bäcker", "Jäger", "Maler", "Müller", "Hirte", "Arzt", "Priester"],
}
PLACES = {
    "en": ["river", "mountain", "garden", "forest", "harbour", "market", "castle", "bridge", "meadow", "valley"],
    "de": ["Fluss", "Berg", "Garten", "Wald", "Hafen", "Markt", "Schloss", "Brücke", "Wiese", "Tal", "Insel"],
}
STARTS = {
    "en": ["The old {}", "A young {}", "My brother, the {},", "Every {} in the village", "Neither the {} nor his wife"],
    "de": [
        "Der alte {}",
        "Ein junger {}",
        "Mein Onkel, der {},",
        "Jeder {} in dem Dorf",
        "Weder der {} noch seine Frau",
    ],
}
VERBS = {
    "en": ["walked slowly through the", "never came back from the", "wanted to see the", "told us of the"],
    "de": ["ging langsam durch den", "kam nie wieder aus dem", "wollte einmal sehen den", "erzählte uns von dem"],
}
ENDS = {
    "en": ["before the {} of {} winters.", "when the {} had {} friends.", "because a {} with {} horses was there."],
    "de": [
        "bevor der {} von {} Wintern kam.",
        "als der {} noch {} Freunde hatte.",
        "weil ein {} mit {} Kühen da war.",
    ],
}


def sentences(language: str, number: int, seed: int = 0) -> list[str]:
    """So many sentences; those of two seeds are different, and share no eight words in a row, for numbers part them."""
    rng, numbers = random.Random(f"{language}{seed}"), count(1000 * 1000 * (seed + 1))
    people = PEOPLE[language]

    def one() -> str:
        start = rng.choice(STARTS[language]).format(rng.choice(people))
        end = rng.choice(ENDS[language]).format(rng.choice(people), next(numbers))
        verb, place = rng.choice(VERBS[language]), rng.choice(PLACES[language])
        return f"{start} {next(numbers)} {verb} {place} {next(numbers)} {end}"

    return [one() for _ in range(number)]
