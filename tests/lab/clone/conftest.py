"""Two small English text files with different topics, and the clone of a tiny base made from them."""

import random
from pathlib import Path

import pytest

from prealign_cpt.lab.clone.build import CloneOptions, build_clone

TOPICS = {
    "house": "the old house stands near the river and a small dog sleeps in front of it under the trees",
    "king": "a king had three daughters who loved books about the sea but nobody reads them at night",
}


def write_texts(folder: Path) -> list[Path]:
    """`house.txt` and `king.txt`, 40 documents of three lines each, no sentence in both."""
    paths = []
    for topic, words in TOPICS.items():
        draw = random.Random(topic)
        documents = [
            "\n".join(" ".join(draw.choices(words.split(), k=9)).capitalize() + "." for _ in range(3))
            for _ in range(40)
        ]
        paths.append(folder / f"{topic}.txt")
        paths[-1].write_text("\n\n".join(documents), encoding="utf-8")
    return paths


@pytest.fixture(scope="session")
def clone_folder(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """What `prealign clone --facts 24` writes."""
    folder = tmp_path_factory.mktemp("clone")
    build_clone(str(base_folder), write_texts(folder), folder / "lab", CloneOptions(facts=24))
    return folder / "lab"
