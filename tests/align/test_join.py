"""The alignment stage when other ranks wait for rank 0: they train with it, and none hangs when one fails."""

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from prealign_cpt import pipeline
from prealign_cpt.align import build
from prealign_cpt.align.build import build_align
from prealign_cpt.run.errors import DataError, PrealignError
from prealign_cpt.train.shard import World, process_group
from tests.align.conftest import LEXICON, grown_tokenizer, recipe_with
from tests.conftest import recipe_file, run_ranks

FLAGS = (
    "--evaluate.before_training",
    "false",
    "--align.words",
    "6",
    "--align.target_tokens",
    "256",
    "--align.lr",
    "1e-2",
)


def work(rank: int, size: int, path: str, base: str, vocab: str, outs: list[str]) -> list[str]:
    """A stage that succeeds, then one in which rank 1 fails; what each rank raised."""
    torch.set_num_threads(1)
    recipe = recipe_with(Path(path), *FLAGS)
    raised = []
    with process_group(torch.device("cpu")) as world:
        for name, out in zip(("good", "bad"), outs, strict=True):
            own = replace(world, store=dist.PrefixStore(name, world.store))
            if name == "bad" and rank == 1:
                build.run_stage = broken
            try:
                part(recipe, Path(base), Path(vocab), Path(out), own)
                raised.append("")
            except PrealignError as error:
                raised.append(f"{type(error).__name__}: {error}")
                break
    return raised


def part(recipe: Any, base: Path, vocab: Path, out: Path, world: World) -> None:
    if world.rank:
        pipeline._follow(recipe, world)
        return
    build_align(recipe, base, vocab, LEXICON[:20], LEXICON[20:], world.device, out, world)
    world.store.set("prepared", "yes")


def broken(*_: Any, **__: Any) -> None:
    raise DataError("a line is wrong")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> tuple[Path, Path, Path, Path]:
    make: Callable[..., Path] = inspect.unwrap(recipe_file)  # the fixture's function, for a scope of its own
    folder = tmp_path_factory.mktemp("join")
    grown_tokenizer().save_pretrained(folder / "vocab")
    return make(folder, base_folder), base_folder, folder / "vocab", folder


@pytest.fixture(scope="module")
def raised(places: tuple[Path, Path, Path, Path]) -> list[list[str]]:
    path, base, vocab, folder = places
    outs = [folder / "good", folder / "bad"]
    for out in outs:
        out.mkdir()
    recipe_with(path)  # the parallel files
    return run_ranks(2, work, str(path), str(base), str(vocab), [str(out) for out in outs])


def test_two_ranks_build_what_one_builds(raised: list[list[str]], places: tuple[Path, Path, Path, Path]):
    path, base, vocab, folder = places
    assert [found[0] for found in raised] == ["", ""]
    alone = folder / "alone"
    alone.mkdir()
    build_align(recipe_with(path, *FLAGS), base, vocab, LEXICON[:20], LEXICON[20:], torch.device("cpu"), alone)
    one, two = (load_file(out / "model.safetensors") for out in (alone, folder / "good"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5, msg=name)
    reports = [json.loads((out / "report.json").read_text()) for out in (alone, folder / "good")]
    assert reports[0]["contrast_stage"]["tokens_backward"] == reports[1]["contrast_stage"]["tokens_backward"] > 0
    assert len(reports[1]["contrast"]) == 3


def test_a_rank_that_fails_stops_the_other(raised: list[list[str]]):
    rank_0, rank_1 = (found[1] for found in raised)
    assert rank_1 == "DataError: a line is wrong"
    assert rank_0 == "StoppedError: align: another rank failed, rank 1: a line is wrong"
