"""Ranks against one process: shares, vectors, gradients, and the whole stage with the body spread over the ranks."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from prealign_cpt.align.contrast import contrastive_loss, relations
from prealign_cpt.align.ranks import gather, parts
from prealign_cpt.align.stage import run_stage
from prealign_cpt.model.spread import load_spread
from prealign_cpt.model.world import World, local_shard, process_group
from tests.align.conftest import ALONE, LEXICON, NOTHING, grown_tokenizer, model_for, recipe_with
from tests.conftest import ENGLISH, make_tokenizer, recipe_file, run_ranks

ENTRIES = 5
TEMPERATURE = 0.1


def make_vectors() -> torch.Tensor:
    return torch.randn(3, 2 * ENTRIES, 8, generator=torch.Generator().manual_seed(0))


def share_of_loss(vectors: torch.Tensor, world: World) -> torch.Tensor:
    """This rank's part of the loss; `vectors` are all units of the batch, of which it takes its own."""
    split = parts(list(range(ENTRIES)), world)
    own = [u for entry in split[world.rank] for u in (2 * entry, 2 * entry + 1)]
    together = gather(vectors[:, own], [2 * len(part) for part in split], world)
    names = [f"{side}:{i}" for i in range(ENTRIES) for side in "et"]
    positive, excluded = relations(names, [i for i in range(ENTRIES) for _ in "et"], own, {"e:0": {"t:3"}})
    return contrastive_loss(together[:, own], together, positive, excluded, TEMPERATURE, num_pairs=2 * ENTRIES)


def rank_loss(world: World) -> tuple[float, list[Any]]:
    vectors = make_vectors().requires_grad_()
    loss = share_of_loss(vectors, world)
    loss.backward()
    with torch.no_grad():
        empty = gather(torch.zeros(3, 0 if world.rank else 2, 8), [2, 0], world)
    assert empty.shape == (3, 2, 8)
    return world.sum(float(loss.detach())), vectors.grad.tolist()


def test_two_ranks_with_b_units_are_one_with_2b(two_ranks: list[Any]):
    vectors = make_vectors().requires_grad_()
    expected = share_of_loss(vectors, ALONE)
    expected.backward()
    (loss, first), (same, second) = (found[0] for found in two_ranks)
    assert loss == same == pytest.approx(float(expected.detach()), abs=1e-6)
    # Each rank has the gradient of its own units, also what the other rank's anchors send into them.
    own = torch.tensor(first).abs().sum(dim=(0, 2)) > 0
    assert own.tolist() == [True] * 4 + [False] * 6
    torch.testing.assert_close(torch.tensor(first) + torch.tensor(second), vectors.grad, atol=1e-6, rtol=1e-5)


def test_parts_are_the_items_in_order():
    world = World(1, 3, torch.device("cpu"), None)  # type: ignore[arg-type]
    for count in range(8):
        split = parts(list(range(count)), world)
        assert [i for part in split for i in part] == list(range(count))
        assert max(map(len, split)) - min(map(len, split)) <= 1


TERMS = ("--align.target_tokens", "384", "--align.anchor_tokens", "256", "--align.weight", "1", "--align.lr", "5e-3",
         "--align.steps", "4", "--align.words", "5")  # fmt: skip
CASES: dict[str, tuple[str, ...]] = {
    "words": (),
    "fewer units than ranks would like": ("--align.words", "2", "--align.target_tokens", "128"),
    "words in context, untied": ("--align.objective", "veco"),
    "sentences, whole model": ("--align.words", "3", "--align.objective", "infoxlm", "--align.trains", "all"),
    "one direction, untied": ("--align.objective", "afp"),
    "distillation": ("--align.distill", "1", "--align.distill_tokens", "90", "--align.lr", "1e-3"),
    "distillation alone": (*NOTHING, "--align.distill", "1", "--align.steps", "6"),
    "distillation of the whole model": (
        "--align.distill",
        "1",
        "--align.trains",
        "all",
        "--align.distill_tokens",
        "20",
        "--align.lr",
        "1e-4",  # Adam makes full steps of the smallest gradients too, of which rounding is a large part
    ),
}


def run_case(path: str, name: str, world: World) -> tuple[dict[str, list[Any]], Any, Any]:
    grown = grown_tokenizer()
    recipe = recipe_with(Path(path), *TERMS, *CASES[name])
    model: Any = model_for(grown, tied="untied" not in name)
    if world.size > 1 and recipe.align.trains == "new_rows":
        folder = Path(path).parent / f"{world.size} ranks" / name
        model.save_pretrained(folder)  # on rank 0; the others write nothing
        torch.distributed.barrier()
        model = load_spread(folder, torch.float32, world)
        body = [p for p in model.base_model.layers.parameters() if p.ndim == 2]
        assert all(local_shard(p).numel() * world.size == p.numel() for p in body)
    figures: list[dict[str, float]] = []
    done = run_stage(model, grown, make_tokenizer(ENGLISH * 4), LEXICON, recipe, figures.append, world)
    assert not any(p.requires_grad for p in model.parameters() if isinstance(p, DTensor))
    weights = {key: v.full_tensor() if isinstance(v, DTensor) else v for key, v in model.state_dict().items()}
    return {key: value.tolist() for key, value in weights.items()}, figures, done


def rank_work(rank: int, size: int, path: str, names: list[str]) -> tuple[Any, list[Any]]:
    with process_group(torch.device("cpu")) as world:
        return rank_loss(world) if size == 2 else None, [run_case(path, name, world) for name in names]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    make: Callable[..., Path] = inspect.unwrap(recipe_file)  # the fixture's function, for a scope of its own
    made = make(tmp_path_factory.mktemp("ranks"), base_folder)
    recipe_with(made)  # the parallel files
    return made


@pytest.fixture(scope="module")
def two_ranks(path: Path) -> list[Any]:
    """What `rank_work` gives on each of two ranks; they start once."""
    return run_ranks(2, rank_work, str(path), list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_make_the_steps_of_one(two_ranks: list[Any], path: Path, name: str):
    _compare(*(found[1][list(CASES).index(name)] for found in two_ranks), path, name)


def test_ranks_that_have_nothing_to_read_run_all_the_same(path: Path):
    """Four ranks share one window and two words, or one text: a rank that ran the body less often would hang."""
    names = ["fewer units than ranks would like", "distillation alone"]
    found = run_ranks(4, rank_work, str(path), names)
    for at, name in enumerate(names):
        _compare(found[0][1][at], found[3][1][at], path, name)


def _compare(one: Any, other: Any, path: Path, name: str) -> None:
    """What two of the ranks made, against what one process makes."""
    weights, figures, done = run_case(str(path), name, ALONE)
    assert one[2] == other[2]
    # Each rank keeps English words for itself, so one that both meet is run twice; so are pieces of new tokens.
    assert one[2].pop("flops") >= done.pop("flops") and one[2] == done
    for row, a, b in zip(figures, one[1], other[1], strict=True):
        assert a == b and a == pytest.approx(row, abs=2e-5)
    for key, value in weights.items():
        a, b = torch.tensor(one[0][key]), torch.tensor(other[0][key])
        assert torch.equal(a, b), f"the ranks differ in {key}"
        torch.testing.assert_close(a, torch.tensor(value), atol=1e-5, rtol=1e-5)
