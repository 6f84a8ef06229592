"""What a user can get wrong: one line on stderr, the right exit code, and no stage that is half there."""

import json
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from transformers import PreTrainedTokenizerFast

from prealign_cpt import __version__
from prealign_cpt.cli import guarded, main, run_recipe
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.folder import ORDER, Run
from tests.faults.ranks import start


@pytest.fixture
def command(capfd: Any) -> Callable[..., tuple[int, list[str]]]:
    """Run a command here; its exit code and its lines on stderr, progress bars left out."""

    def run(*arguments: Any) -> tuple[int, list[str]]:
        code = main([str(argument) for argument in arguments])
        return code, [line for line in capfd.readouterr().err.splitlines() if line and "it/s]" not in line]

    return run


def _left(recipe: Path) -> list[str]:
    """What lies in the run folder that a stage has made or begun."""
    run = recipe.parent / "runs" / "tiny"
    return sorted(p.name for p in run.glob("*") if p.name in ORDER or p.name.startswith(".tmp-"))


def _replace(recipe: Path, old: str, new: str) -> list[str]:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))
    return []


def _write(recipe: Path, name: str, content: bytes) -> list[str]:
    (recipe.parent / name).write_bytes(content)
    return []


def _own_base(recipe: Path, change: Callable[[Path], Any]) -> list[str]:
    """Let the recipe use a copy of the base folder, changed."""
    own = recipe.parent / "own base"
    shutil.copytree(load_recipe(recipe).base.model, own)
    change(own)
    return ["--base.model", str(own)]


def _edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _pickle_only(base: Path) -> None:
    (base / "model.safetensors").unlink()
    torch.save({}, base / "pytorch_model.bin")


def _unigram(base: Path) -> None:
    """A tokenizer of the kind that has no merges."""
    pieces = [("<unk>", 0.0), ("<|endoftext|>", 0.0), *((c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz ")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|endoftext|>").save_pretrained(
        base
    )


Change = Callable[[Path], list[str]]
BAD: dict[str, tuple[Change, int, str]] = {
    "recipe missing": (lambda r: r.unlink() or [], 66, r"tiny\.toml: no such recipe"),
    "recipe a folder": (lambda r: r.unlink() or r.mkdir() or [], 66, r"tiny\.toml: no such recipe"),
    "recipe not TOML": (lambda r: _replace(r, "[base]", "[base"), 78, r"tiny\.toml: not valid TOML"),
    "recipe Latin-1": (lambda r: _write(r, r.name, 'name = "Köln"'.encode("latin-1")), 78, r"not valid TOML"),
    "unknown key": (lambda r: _replace(r, "[train]", "[train]\nlearning_rate = 1"), 78, r"train\.learning_rate: unk"),
    "key missing": (lambda r: _replace(r, 'language = "German"', ""), 78, r"language: missing"),
    "section a number": (lambda r: _replace(r, "[vocab]", "[other]\n[vocab]"), 78, r"other: unknown key"),
    "string for a number": (lambda r: _replace(r, "size = 30", 'size = "30"'), 78, r"vocab\.size: .*whole number"),
    "negative size": (lambda r: ["--vocab.size", "-1"], 78, r"vocab\.size: -1 is too small"),
    "not a number": (lambda r: ["--train.lr", "nan"], 78, r"train\.lr: nan"),
    "infinite": (lambda r: ["--train.lr", "inf"], 78, r"train\.lr: inf"),
    "unknown flag": (lambda r: ["--vocab.sise", "3"], 78, r"--vocab\.sise: unknown key; did you mean vocab\.size\?"),
    "flag without value": (lambda r: ["--vocab.size"], 78, r"--vocab\.size: a value is missing"),
    "path for a name": (lambda r: ["--name", "../elsewhere"], 78, r"name: '\.\./elsewhere' must be a plain folder"),
    "no text": (lambda r: ["--text.target", "[]"], 78, r"text\.target: missing"),
    "same file twice": (
        lambda r: ["--text.valid_target", "target.txt"], 78, r"target\.txt: stands among the training texts and"
    ),
    "corpus missing": (lambda r: (r.parent / "target.txt").unlink() or [], 66, r"target\.txt: no such file or folder"),
    "corpus empty": (lambda r: _write(r, "target.txt", b" \n\n"), 65, r"target\.txt: no text in it"),
    "corpus binary": (lambda r: _write(r, "target.txt", b"text\n\0\x01\x02"), 65, r"target\.txt:2: binary data"),
    "corpus not UTF-8": (
        lambda r: _write(r, "english.txt", "one\ntwo\ncafé".encode("latin-1")), 65, r"english\.txt:3: not UTF-8 at byte"
    ),
    "held-out text missing": (lambda r: (r.parent / "test_target.txt").unlink() or [], 66, r"test_target\.txt: cannot"),
    "lexicon missing": (lambda r: (r.parent / "lexicon.tsv").unlink() or [], 66, r"lexicon\.tsv: no such file"),
    "lexicon Latin-1": (
        lambda r: _write(r, "lexicon.tsv", "house\tHaus\nsmall\tkürzer\n".encode("latin-1")), 65,
        r"lexicon\.tsv:2: not UTF-8 at byte offset 18",
    ),
    "lexicon of one column": (
        lambda r: _write(r, "lexicon.tsv", b"house\tHaus\ndog Hund\n"), 65, r"lexicon\.tsv:2: .*columns"
    ),
    "lexicon empty": (lambda r: _write(r, "lexicon.tsv", b""), 65, r"lexicon\.tsv: the file is empty"),
    "lexicon of comments": (lambda r: _write(r, "lexicon.tsv", b"# nothing\n"), 65, r"lexicon\.tsv"),
    "lexicon a folder": (
        lambda r: (r.parent / "lexicon.tsv").unlink() or (r.parent / "lexicon.tsv").mkdir() or [], 66, r"lexicon\.tsv"
    ),
    "base missing": (lambda r: ["--base.model", "./nowhere"], 66, r"\./nowhere.*: no such folder"),
    "base without weights": (
        lambda r: _own_base(r, lambda b: (b / "model.safetensors").unlink()), 66, r"model\.safetensors: weights are mis"
    ),
    "base without tokenizer": (
        lambda r: _own_base(r, lambda b: (b / "tokenizer.json").unlink()), 66, r"own base: no tokenizer"
    ),
    "base cut short": (
        lambda r: _own_base(r, lambda b: os.truncate(b / "model.safetensors", 1000)), 65, r"not a sound safetensors"
    ),
    "base a pickle": (lambda r: _own_base(r, _pickle_only), 65, r"pytorch_model\.bin: weights only as pickle"),
    "base with code": (
        lambda r: _own_base(r, lambda b: _edit_json(b / "config.json", auto_map={"AutoModel": "x.Y"})), 65,
        r"config\.json: 'auto_map' names code",
    ),
    "base tokenizer with code": (
        lambda r: _own_base(r, lambda b: _edit_json(b / "tokenizer_config.json", auto_map={"AutoTokenizer": "x.Y"})),
        65, r"tokenizer_config\.json: 'auto_map' names code",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_gives_one_line_and_leaves_nothing(recipe_file: Path, command: Any, name: str) -> None:
    change, expected, pattern = BAD[name]
    code, lines = command("prepare", recipe_file, *change(recipe_file))
    assert code == expected, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("prealign: ")
    assert re.search(pattern, lines[0]), lines[0]
    assert not _left(recipe_file)


def test_a_unigram_tokenizer_cannot_be_grown_but_kept(recipe_file: Path, command: Any) -> None:
    flags = _own_base(recipe_file, _unigram)
    code, lines = command("prepare", recipe_file, *flags)
    assert code == 78 and len(lines) == 1, lines
    assert "a Unigram tokenizer" in lines[0] and "set the size to 0" in lines[0]
    assert _left(recipe_file) == ["lexicon", "text"]
    code, lines = command("prepare", recipe_file, *flags, "--vocab.size", "0")
    assert code == 0, "the remedy of the message must work: " + "\n".join(lines)


def test_an_unknown_start_token_is_refused_before_any_work(recipe_file: Path, command: Any) -> None:
    code, lines = command("prepare", recipe_file, "--base.start_token", "<s>")
    assert code == 78 and len(lines) == 1, lines
    assert "base.start_token: '<s>' is not a token" in lines[0] and "<|endoftext|>" in lines[0]
    assert not _left(recipe_file)


def test_a_base_that_is_not_finite_is_refused(recipe_file: Path, command: Any) -> None:
    from safetensors.torch import load_file, save_file

    def spoil(base: Path) -> None:
        weights = load_file(base / "model.safetensors")
        weights["model.embed_tokens.weight"][7, 3] = float("nan")
        save_file(weights, base / "model.safetensors", {"format": "pt"})

    code, lines = command("prepare", recipe_file, *_own_base(recipe_file, spoil))
    assert code == 79 and len(lines) == 1, lines
    assert "embed_tokens.weight is not finite in rows [7]" in lines[0]
    assert _left(recipe_file) == ["data", "lexicon", "text", "vocab"]


def test_a_gate_that_closes_names_its_key(recipe_file: Path, command: Any) -> None:
    code, lines = command("align", recipe_file, "--align.max_english_increase", "0")
    assert code == 79 and len(lines) == 1, lines
    assert "align.max_english_increase" in lines[0]
    assert _left(recipe_file) == ["init", "lexicon", "text", "vocab"]


def test_a_text_that_fills_no_sequence_is_refused(recipe_file: Path, command: Any) -> None:
    code, lines = command("prepare", recipe_file, "--data.sequence_length", "100000")
    assert code == 65 and len(lines) == 1, lines
    assert "do not fill one sequence of 100000" in lines[0]
    assert _left(recipe_file) == ["lexicon", "text", "vocab"]


def test_two_runs_in_one_folder_at_once(recipe_file: Path, command: Any) -> None:
    first = Run(load_recipe(recipe_file).run)
    code, lines = command("prepare", recipe_file, "--vocab.size", "5")
    assert code == 75 and len(lines) == 1, lines
    assert "another run works in this folder" in lines[0] and f"process {os.getpid()}" in lines[0]
    assert not (first.folder / "run_state.json").exists(), "the first run is not to be disturbed"
    assert not _left(recipe_file)
    first.close()
    assert command("lexicon", recipe_file.parent / "lexicon.tsv", "--out", recipe_file.parent / "out.tsv")[0] == 0
    assert command("prepare", recipe_file)[0] == 0


def test_a_file_in_place_of_the_run_folder(recipe_file: Path, command: Any) -> None:
    (recipe_file.parent / "runs").write_text("a file")
    code, lines = command("prepare", recipe_file)
    assert code == 74 and len(lines) == 1, lines


def _limited(rank: int, size: int, told: Path, limit: int, line: list[str]) -> int:
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return main(line)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "size", "kept"),
    [
        ("prepare", 4_000, ["lexicon"]),
        ("prepare", 12_000, ["lexicon", "text"]),
        ("align", 60_000, ["data", "init", "lexicon", "text", "vocab"]),
        ("export", 60_000, ["align", "data", "init", "lexicon", "text", "vocab"]),
    ],
    ids=["text", "tokenizer", "model", "checkpoint"],
)
def test_a_full_disk_is_storage_s_fault(
    recipe_file: Path, command: Any, stage: str, size: int, kept: list[str]
) -> None:
    """Writing beyond so many bytes fails, as on a full disk; in a process of its own, for pytest writes files too."""
    if stage != "prepare":
        assert command("prepare" if stage == "align" else "align", recipe_file)[0] == 0
    elif "text" in kept:  # py3langid unpacks its model into a temporary file, which is larger
        assert command("prepare", recipe_file, "--skip", "lexicon,vocab,data,init")[0] == 0
    told = recipe_file.parent / "told"
    (ended,) = start(1, _limited, told, size, [stage, str(recipe_file)], seconds=200)
    error = told.read_text()
    assert ended.value == 74, (ended, error)
    lines = [line for line in error.splitlines() if line.startswith("prealign: ")]
    assert len(lines) == 1 and ("File too large" in lines[0] or "saving failed" in lines[0]), error
    assert "Traceback" not in error
    assert [name for name in _left(recipe_file) if name != "train"] == kept
    assert not list((recipe_file.parent / "runs").rglob(".tmp-*"))
    assert not list((recipe_file.parent / "runs").rglob("step-*"))
    if stage == "align":
        assert command("align", recipe_file)[0] == 0, "with room again the run goes on"


def test_a_user_s_error_is_one_line_and_a_fault_of_ours_has_a_traceback(capsys: Any) -> None:
    def fail(error: Exception) -> Callable[[], int]:
        def work() -> int:
            raise error

        return work

    assert guarded(fail(DataError("x.txt:3: bad"))) == 65
    assert capsys.readouterr().err == "prealign: x.txt:3: bad\n"
    assert guarded(fail(ValueError("ours"))) == 70
    assert "Traceback" in capsys.readouterr().err
    assert guarded(fail(BrokenPipeError())) == 141
    assert guarded(lambda: 3) == 3


def test_other_ranks_leave_the_message_to_rank_0(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("RANK", "1")

    def work() -> int:
        raise DataError("said once")

    assert guarded(work) == 65
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [[], ["--train.steps", "3"], ["tiny.toml", "--redo"]])
def test_the_launcher_script_without_sense(arguments: list[str], capsys: Any) -> None:
    assert run_recipe(arguments) == 78
    assert capsys.readouterr().err.count("\n") == 1


def test_a_flag_of_a_recipe_is_not_for_other_commands(command: Any, tmp_path: Path) -> None:
    code, lines = command("verify", tmp_path, "--train.steps", "3")
    assert code == 78 and "--train.steps: unknown option of `prealign verify`" in lines[0]


def test_verify_wants_a_run_folder(command: Any, tmp_path: Path) -> None:
    code, lines = command("verify", tmp_path)
    assert code == 78 and "holds no finished stage" in lines[0]


def test_the_lexicon_command_never_overwrites(command: Any, tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text("house\tHaus\n")
    (tmp_path / "out.tsv").write_text("mine")
    code, lines = command("lexicon", tmp_path / "in.tsv", "--out", tmp_path / "out.tsv")
    assert code == 74 and "exists already" in lines[0]
    assert (tmp_path / "out.tsv").read_text() == "mine"


def test_the_lexicon_command_says_what_it_recognised(command: Any, tmp_path: Path, monkeypatch: Any) -> None:
    said: list[str] = []
    monkeypatch.setattr("builtins.print", lambda text, **_: said.append(text))
    (tmp_path / "list.txt").write_text("Haus house\u200e\n")
    assert command("lexicon", tmp_path / "list.txt", "--swap", "--out", tmp_path / "out.tsv")[0] == 0
    counts = json.loads(said[-1])
    assert (counts["format"], counts["invisible_characters"]) == ("muse", {"U+200E": 1})
    assert (tmp_path / "out.tsv").read_text().splitlines()[1:] == ["house\tHaus"]


def test_parallel_text_is_for_inducing(command: Any, tmp_path: Path) -> None:
    sides = tmp_path / "a", tmp_path / "b"
    code, _ = command("lexicon", tmp_path / "in.tsv", "--parallel", *sides, "--out", tmp_path / "out.tsv")
    assert code == 78


def test_version_and_help(capsys: Any) -> None:
    for arguments in (["--version"], ["--help"], ["prepare", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_torchrun_s_report_says_why(tmp_path: Path, monkeypatch, capsys):
    """torchrun prints this file's message last, below its own traceback."""
    told = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(told))
    assert main(["export", str(tmp_path / "none.toml")]) == 66
    failure = ProcessFailure(0, 1, 66, str(told))
    assert "no such recipe" in ChildFailedError("cpt.py", {0: failure}).format_msg()
