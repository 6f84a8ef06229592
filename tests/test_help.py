"""What -h says, and that it says so at once; the page of all keys."""

import shutil
import subprocess
import sys
from typing import Any

import pytest

from docs import scale
from docs.keys import PAGE, page
from prealign_cpt.cli import main, run_recipe
from prealign_cpt.command_line import command_line
from prealign_cpt.recipe.describe import help_text, sections
from prealign_cpt.recipe.file import keys

COMMANDS = list(command_line()._subparsers._group_actions[0].choices)
OF_RECIPES = ["run", "prepare", "align", "train", "export", "eval r.toml", "demo", "sizes", "compare", "vecmap"]

LOADED = """
import os, sys
from prealign_cpt.cli import main
for command in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    try:
        main([*command.split(), "-h"])
    except SystemExit:
        print("loaded:", *sorted(name for name in sys.modules if "." not in name))
    sys.exit()
"""
"""One process loads the command line; a fork of it answers each command."""


def test_help_loads_nothing_that_takes_seconds() -> None:
    commands = ["", *COMMANDS, "eval r.toml", "train r.toml"]
    line = [sys.executable, "-c", LOADED, *commands]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    found = [part.partition("loaded: ") for part in done.stdout.split("usage: ")[1:]]
    assert len(found) == len(commands)
    heavy = {"torch", "transformers", "tokenizers", "vllm", "datasets", "numpy", "scipy", "openai", "mteb"}
    for command, (text, _, loaded) in zip(commands, found, strict=True):
        assert text.startswith(f"prealign {command}".split(" r.toml")[0].strip()) and "options:" in text, command
        assert "argparse" in loaded.split() and not heavy & set(loaded.split()), command


@pytest.mark.parametrize("command", OF_RECIPES)
def test_help_of_a_command_that_takes_a_recipe_shows_every_key(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "-h"])
    text = capsys.readouterr().out
    assert caught.value.code == 0 and "options:" in text
    assert text.endswith(help_text(shutil.get_terminal_size().columns - 2))
    assert all(f"  --{key}  " in text for key in keys())


def test_help_of_the_script_for_torchrun(capsys: Any) -> None:
    for arguments in (["--help"], ["r.toml", "-h"], ["r.toml", "--train.steps", "3", "-h"]):
        with pytest.raises(SystemExit) as caught:
            run_recipe(arguments)
        text = capsys.readouterr().out
        assert caught.value.code == 0 and "--train.steps" in text and "--redo STAGE" in text


def test_a_key_is_shown_with_type_bounds_default_and_docstring() -> None:
    lines = [line.strip() for line in help_text(200).splitlines()]
    for name, rest, text in (
        ("train.warmup", "number, at least 0, at most 1; default 0.1", "Share of the steps in which the learning rate"),
        ("align.target_tokens", "whole number, at least 0, a multiple of 128; default 0", "Tokens of target training"),
        ("codeswitch.curriculum", '"constant" | "falling"; default "constant"', "`falling`: the share of replay"),
        ("serve.prompts_target", "list of strings; default []", "Asked of the served model"),
        ("train.compile", "true | false; default false", "Compile each block"),
        ("name", "string; must be given", ""),
        ("evaluate.transfer_train", 'string; default ""', "Zero-shot transfer"),  # its docstring stands below the next
    ):
        place = lines.index(f"--{name}  {rest}")
        assert lines[place + 1].startswith(text)
    assert any(line.startswith('--vocab.size  whole number or "auto", at least 0;') for line in lines)


def test_every_key_and_section_has_a_docstring() -> None:
    described = sections()
    assert sorted(
        key.name for name, (_, found) in described.items() for key in found if name != "text.source"
    ) == sorted(keys())
    assert [key.name for _, found in described.values() for key in found if not key.text] == []
    assert all(about for about, _ in described.values())


def test_the_page_of_all_keys_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew with python -m docs.keys"


def test_the_page_of_what_grows_is_current() -> None:
    assert scale.PAGE.read_text(encoding="utf-8") == scale.page(), "write it anew with python -m docs.scale"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["train"], ["RECIPE", "required", "prealign train -h"]),
        (["trian", "r.toml"], ["'trian'", "'train'", "prealign -h"]),
        (["train", "r.toml", "--rdo", "data"], ["--rdo", "did you mean --redo?", "prealign train -h"]),
        (["run", "r.toml", "--nporc=2"], ["--nporc", "did you mean --nproc?"]),
        (["report", "runs/x", "--cntrol", "y"], ["--cntrol", "did you mean --control?", "prealign report -h"]),
        (["eval", "runs/x", "--train.steps", "3"], ["--train.steps", "unknown option of `prealign eval`"]),
        (["run", "r.toml", "--nproc", "two"], ["--nproc", "invalid int value"]),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(line: list[str], words: list[str], capsys: Any) -> None:
    assert main(line) == 78
    told = capsys.readouterr().err
    assert told.startswith("prealign: ") and told.count("\n") == 1
    assert all(word in told for word in words), told


def test_keys_may_stand_before_the_recipe(capsys: Any) -> None:
    assert main(["train", "--train.steps", "3", "none.toml", "--train.lr=1"]) == 66
    assert "none.toml: no such recipe" in capsys.readouterr().err


def test_no_key_is_taken_for_the_short_form_of_an_option(capsys: Any) -> None:
    """`--seed` is a key, though compare has `--seeds`."""
    assert main(["compare", "none.toml", "--variants", "none.toml", "--seed", "many"]) == 66
    assert "none.toml" in capsys.readouterr().err
