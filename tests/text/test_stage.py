"""The text stage over several sources, and in any number of processes."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.cli import main
from prealign_cpt.data import build as data_build
from prealign_cpt.data.build import build_data, read_mixture
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import tasks
from prealign_cpt.run.errors import DataError, RecipeError
from prealign_cpt.run.manifest import folder_digest, hashed
from prealign_cpt.text import stage
from prealign_cpt.text.reader import read_documents
from prealign_cpt.text.stage import build_text, held_out_documents, training_sample
from tests.conftest import PAIRS, START
from tests.text.test_split import training_documents

WEB = [f"Nyumba {i} kubwa iko karibu na mto {i * 7}, na mbwa wawili {i} wanalala pale." for i in range(1200)]
BOOKS = [
    f"Kitabu cha {i} kinasema kwamba bahari {i * 3} ni kubwa sana, na maji yake ni baridi {i}." for i in range(400)
]
NEWS = [f"The house number {i} stands near the river {i * 7}, and two dogs sleep there {i}." for i in range(900)]


@pytest.fixture
def recipe_path(tmp_path: Path, base_folder: Path) -> Path:
    (tmp_path / "web").mkdir()
    for i in range(12):
        (tmp_path / f"web/{i:02}.txt").write_text("\n\n".join(WEB[100 * i : 100 * i + 100]))
    (tmp_path / "books.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in BOOKS))
    (tmp_path / "news.txt").write_text("\n\n".join(NEWS))
    (tmp_path / "a.en").write_text("\n".join(f"The old {i}\t house" for i in range(60)) + "\n")
    (tmp_path / "a.sw").write_text("\n".join(f"Nyumba {i}" for i in range(59)) + "\n \n")
    path = tmp_path / "r.toml"
    path.write_text(
        f'name = "r"\nlanguage = "Swahili"\nout = "{tmp_path}"\nbase.model = "{base_folder}"\n'
        f'base.start_token = "{START}"\nvocab.size = 0\ndata.sequence_length = 16\ntext.document = "paragraph"\n'
        "train.steps = 40\ntrain.sequences = 5\ntrain.save_every = 5\ntrain.eval_every = 5\ndata.english_share = 0.2\n"
        '[[text.source]]\nname = "web"\ntarget = ["web"]\nweight = 3\n'
        '[[text.source]]\nname = "books"\ntarget = ["books.jsonl"]\nweight = 1.0\n'
        '[[text.source]]\nname = "bitext"\nenglish = ["a.en"]\ntarget = ["a.sw"]\nweight = 1.0\n'
        '[[text.source]]\nname = "news"\nenglish = ["news.txt"]\n'
    )
    return path


def built(path: Path, name: str = "r", workers: int = 1, *flags: str) -> tuple[Recipe, dict[str, Any]]:
    recipe = load_recipe(path, ["--name", name, *flags])
    out = recipe.run / "text"
    out.mkdir(parents=True)
    build_text(recipe, out, recipe.run / "tasks", workers)
    return recipe, json.loads((out / "report.json").read_text())


def digests(folder: Path) -> dict[str, str]:
    return {
        name: found["sha256"]
        for name, found in hashed(folder, [path for path in folder.rglob("*.*") if path.is_file()]).items()
    }


def test_every_document_of_every_source_is_in_one_place(recipe_path: Path):
    recipe, report = built(recipe_path)
    target = report["target"]
    assert [(one["name"], one["documents"] > 0) for one in target["sources"]] == [
        *(("web", True), ("books", True), ("bitext", True))
    ]
    held = [document for name in ("valid", "test") for document in held_out_documents(recipe, name, "target")]
    training = list(training_documents(recipe, "target"))
    bitext = [document for document in training if "\n" in document]
    assert sorted([*held, *training]) == sorted([*WEB, *BOOKS, *bitext])
    pairs = [(f"The old {i}\t house", f"Nyumba {i}") for i in range(59)]
    assert sorted(tuple(sorted(one.split("\n"), reverse=True)) for one in bitext) == sorted(pairs)
    assert 15 < sum(one.startswith("The") for one in bitext) < 44, "in either order"
    assert not any("\n" in document for document in held), "parallel text is in no held-out text"


def test_held_out_text_begins_with_all_sources_and_stands_apart_by_source(recipe_path: Path):
    recipe, _ = built(recipe_path)
    held = list(held_out_documents(recipe, "test", "target"))
    beginning = held[: len(held) // 3]
    assert 0 < sum(text in BOOKS for text in beginning) < len(beginning)
    text = recipe.run / "text"
    apart = [set(read_documents([text / f"target.test.{name}.jsonl"])) for name in ("web", "books")]
    assert apart[0] <= set(WEB) and apart[1] <= set(BOOKS) and apart[0] | apart[1] == set(held)
    assert not (text / "english.test.news.jsonl").exists(), "a single source is the whole side"


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("workers", [2, 8])
def test_workers_decide_nothing_and_a_second_start_takes_what_is_done(
    recipe_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stage, "SHARD_BYTES", 9_000)
    monkeypatch.setattr(tasks, "BYTES_A_WORKER", 1_000)
    (one, report), (many, _) = built(recipe_path, "one"), built(recipe_path, "many", workers)
    assert digests(one.run / "text") == digests(many.run / "text")
    assert len(report["target"]["sources"][0]["shards"]) > 8
    sample = list(training_sample(one, "target", 20_000))
    kinds = [sum(text in some for text in sample) / len(sample) for some in (set(WEB), set(BOOKS))]
    assert 18_000 < sum(len(text.encode()) for text in sample) < 26_000 and kinds[0] > 2 * kinds[1] > 0.2
    assert len({text[:10] for text in sample if text in WEB}) > 50, "of every shard, not of the first alone"


@pytest.mark.usefixtures("warm_workers")
def test_weights_decide_what_is_read(
    recipe_path: Path, base_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tasks, "BYTES_A_WORKER", 1_000)
    recipe, _ = built(recipe_path)
    out, lexicon = recipe.run / "data", [Pair(s, t) for s, t in PAIRS]
    out.mkdir()
    capsys.readouterr()
    build_data(recipe, base_folder, base_folder, lexicon, out, recipe.run / "tasks2", 2)
    report = json.loads((out / "report.json").read_text())
    assert report["sequences_used"] == {"target": 160, "english": 40}
    shares = {name: one["share"] for name, one in report["sources"].items()}
    assert shares == {"web": 0.48, "books": 0.16, "bitext": 0.16, "news": 0.2}
    assert report["sources"]["web"]["times_read"] < 0.1 < report["sources"]["bitext"]["times_read"]
    assert "data: bitext: " in (told := capsys.readouterr().out) and "16.0% of the run" in told
    found = read_mixture(recipe, out)
    sources = [found.locate(n)[:2] for n in range(200)]
    assert [sources.count(("target", i)) for i in range(3)] == [96, 32, 32]


def test_without_weights_every_source_is_read_equally_often(recipe_path: Path, base_folder: Path):
    text = recipe_path.read_text()
    recipe_path.write_text("\n".join(line for line in text.split("\n") if not line.startswith("weight")))
    recipe, _ = built(recipe_path)
    out = recipe.run / "data"
    out.mkdir()
    build_data(recipe, base_folder, base_folder, [], out, recipe.run / "tasks2", 1)
    sources = json.loads((out / "report.json").read_text())["sources"]
    times = [sources[name]["times_read"] for name in ("web", "books")]
    assert times[0] == pytest.approx(times[1], rel=0.1)


def test_a_stage_that_was_stopped_behind_its_tasks_goes_on(
    recipe_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is done stays done until the stage is published, also what was already put together."""
    recipe, _ = built(recipe_path)
    whole = digests(recipe.run / "text")
    tasks = recipe.run / "tasks"

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    def again(build: Callable[[Path], None], out: Path, place: Any, last: str) -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(place, last, stopped)
            with pytest.raises(KeyboardInterrupt):
                build(out)
        shutil.rmtree(out)  # as `new_folder` does
        out.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(place, "each", partial(_nothing_left, place.each))
            build(out)

    again(lambda out: build_text(recipe, out, tasks, 1), recipe.run / "text", stage, "atomic_write")
    assert digests(recipe.run / "text") == whole
    pack = partial(build_data, recipe, base_folder, base_folder, [])
    again(lambda out: pack(out, recipe.run / "tasks2", 1), recipe.run / "data", data_build, "data_report")
    assert (recipe.run / "data/web/00000-000.inputs.npy").is_file()


def _nothing_left(real: Any, function: Any, tasks: Any, folder: Path, *rest: Any) -> Any:
    assert all((folder / f"{name}.json").is_file() for name in tasks), "it was done before"
    return real(function, tasks, folder, *rest)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("weight = 3\n", "", "text.source: of the target side web has no weight, others have"),
        ('name = "books"', 'name = "web"', "text.source[1].name: another text is called 'web' too"),
        ('name = "books"', 'name = "a/b"', "text.source[1].name: 'a/b' must be a plain file name"),
        ('target = ["books.jsonl"]\n', "", "text.source[1]: names no text"),
        ('target = ["books.jsonl"]', 'tagret = ["books.jsonl"]', "text.source[1].tagret: unknown key; did you mean"),
        ("weight = 3\n", 'weight = "3"\n', "text.source[0].weight: expected a number, got '3'"),
        ("text.document", 'text.target = ["x"]\ntext.document', "(the list text.target has none: make it a source)"),
    ],
)
def test_a_source_that_cannot_be_is_named(recipe_path: Path, old: str, new: str, words: str):
    recipe_path.write_text(recipe_path.read_text().replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_path)
    assert words in str(caught.value)


def test_parallel_text_of_unequal_length_is_refused(recipe_path: Path):
    with (recipe_path.parent / "a.en").open("a") as file:
        file.write("one more\n")
    with pytest.raises(DataError, match=r"a\.sw: ends before line 61 of .*a\.en"):
        built(recipe_path)


def test_shares_that_were_packed_apart_are_only_put_together(recipe_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "SHARD_BYTES", 9_000)
    prepare = ["prepare", str(recipe_path), "--workers", "1"]
    assert main([*prepare, "--share", "0/2"]) == 66, "text and vocabulary come first"
    assert main([*prepare, "--skip", "data,init"]) == 0
    for share in ("0/2", "1/2"):
        assert main([*prepare, "--share", share]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(data_build, "each", partial(_nothing_left, data_build.each))
        assert main([*prepare, "--skip", "init"]) == 0
    assert main([*prepare, "--skip", "init", "--name", "alone"]) == 0
    runs = [recipe_path.parent / name / "data" for name in ("r", "alone")]
    assert folder_digest(runs[0]) == folder_digest(runs[1])
    assert not list((recipe_path.parent / "r").glob(".tasks-*"))
    assert main([*prepare, "--share", "2/2"]) == 78


def test_a_run_tells_the_bits_of_every_source(recipe_path: Path):
    flags = ["--train.steps=2", "--train.micro_batch=5", "--evaluate.max_bytes=2000", "--align.steps=0", "--workers=1"]
    assert main(["eval", str(recipe_path), *flags]) == 0
    run = recipe_path.parent / "r"
    models = json.loads((run / "eval/report.json").read_text())["models"]
    bits = models["trained"]["by_source"]["target"]
    assert set(bits) == {"web", "books"} and all(value > 0 for value in bits.values())
    assert "english" not in models["trained"]["by_source"], "a side of one source"
    assert main(["eval", str(run), "--out", str(run / "again"), "--preset", "quick"]) == 0
    assert main(["report", str(run)]) == 0
