"""Two, three and four gloo ranks, in a line and in a table, against one process without any sharding.

Losses, gradients, weights, ties and buffers agree. The reference is a plain transformers model, its own logits, and
torch's AdamW. Four processes are started once; the first two and the first three of them form groups of their own,
because starting processes takes longer than all the cases together.
"""

import math
import os
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM

from prealign_cpt.data.mixture import positions
from prealign_cpt.model.load import blocks
from prealign_cpt.model.world import choose_device, local_shard, process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.train.optim import make_optimizer, old_rows
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.step import SpikeGuard, train_step
from tests.conftest import free_port, make_model, run_ranks
from tests.train.conftest import VOCAB, full, mixture, weights

LENGTH = 24
START = 0
STEPS = 2
CASES: dict[str, dict[str, Any]] = {
    "tied": {"tied": True, "sequences": 6, "micro_batch": 8},
    "untied": {"tied": False, "sequences": 6, "micro_batch": 8},
    "accumulated": {"tied": True, "sequences": 7, "micro_batch": 1},
    "fewer sequences than ranks": {"tied": True, "sequences": 1, "micro_batch": 2},
    "recomputed": {"tied": False, "sequences": 4, "micro_batch": 2, "checkpoint_activations": "full"},
    "in part": {"tied": True, "sequences": 4, "micro_batch": 2, "checkpoint_activations": "selective"},
    "offloaded": {"tied": True, "sequences": 7, "micro_batch": 1, "offload": True},
}
COMPILED = {"tied": True, "sequences": 4, "micro_batch": 2, "checkpoint_activations": "selective", "compiled": True}
WIDE = {name: CASES[name] for name in ("tied", "untied", "accumulated", "fewer sequences than ranks")}
"""The cases for three and four ranks."""
PLACES = {2: CASES, 3: WIDE, 4: WIDE | {f"{name}, two replicas": case | {"replicas": 2} for name, case in WIDE.items()}}
ALL = [(size, name) for size, cases in PLACES.items() for name in cases]


def _recipe(case: dict[str, Any]) -> Train:
    return Train(
        steps=STEPS, sequences=case["sequences"], micro_batch=case["micro_batch"], lr=1e-2, warmup=0.0, decay=0.0,
        clip=1e9, weight_decay=0.1, precision="fp32", eval_every=9, save_every=9, replicas=case.get("replicas", 1),
    )  # fmt: skip


def _write_data(folder: Path) -> None:
    """16 rows of three documents or so; some learn much less than others, so that ranks differ in their targets."""
    random = np.random.default_rng(5)
    inputs = random.integers(1, VOCAB, size=(16, LENGTH)).astype(np.int32)
    inputs[:, [0, 9, 15]] = START
    labels = inputs.copy()
    for row, learned in enumerate(random.integers(2, LENGTH, size=16)):
        labels[row, learned:] = -100
    np.save(folder / "text.inputs.npy", inputs)
    np.save(folder / "text.labels.npy", labels)


def _gradient_bytes(module: FSDPModule) -> int:
    """Bytes of all gradients that a rank holds between two passes, wherever FSDP keeps them."""
    held: dict[int, int] = {}
    for part in module.modules():
        if not isinstance(part, FSDPModule):
            continue
        for group in part._get_fsdp_state()._fsdp_param_groups:
            tensors = [group._partial_reduce_output]
            for p in group.fsdp_params:
                whole = p._unsharded_param if hasattr(p, "_unsharded_param") else None
                tensors += [p.unsharded_accumulated_grad, p.sharded_param.grad, None if whole is None else whole.grad]
            for tensor in tensors:
                if tensor is not None:
                    storage = local_shard(tensor).untyped_storage()
                    held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


def _train_sharded(folder: Path, case: dict[str, Any], world: Any) -> dict[str, Any]:
    """Two updates; what they gave, as whole arrays."""
    recipe, text = _recipe(case), mixture(folder)
    name = "tied" if case["tied"] else "untied"
    keys = ("checkpoint_activations", "compiled", "replicas", "offload")
    module = sharded(folder / name, world, "fp32", **{key: case[key] for key in keys if key in case})
    found_mesh = module.model.lm_head.weight.device_mesh.shape
    runs = []
    blocks(module.model)[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    found: dict[str, Any] = {"losses": [], "norms": [], "gradients": [], "between": []}
    module.register_forward_pre_hook(lambda *_: found["between"].append(_gradient_bytes(module)))
    optimizer = make_optimizer(module, recipe)
    optimizer.register_step_pre_hook(
        lambda *_: found["gradients"].append({n: full(p.grad) for n, p in module.named_parameters()})
    )
    for step in range(STEPS):
        done = train_step(module, optimizer, text, step, recipe, START, world, SpikeGuard())
        found["losses"].append(done.loss)
        found["norms"].append(done.norm)
        found["tokens"], found["targets"] = done.tokens, done.targets
    found["weights"] = weights(module)
    found["tie"] = module.model.lm_head.weight is module.model.model.embed_tokens.weight
    found["buffers"] = {n: b.numpy().copy() for n, b in module.named_buffers()}
    found["forwards"], found["mesh"] = len(runs), tuple(found_mesh)
    found["parameters"] = sum(p.numel() for p in module.parameters())
    return found


def _half_precision(folder: Path, world: Any) -> dict[str, Any]:
    recipe = _recipe(CASES["tied"])
    module = sharded(folder / "tied", world, "bf16")
    seen = []
    block = blocks(module.model)[0]
    block.self_attn.q_proj.register_forward_hook(lambda m, x, y: seen.append((m.weight.dtype, y.dtype)))
    before = full(module.model.lm_head.weight)
    optimizer = make_optimizer(module, recipe)
    done = train_step(module, optimizer, mixture(folder), 0, recipe, START, world, SpikeGuard())
    state = [v.dtype for values in optimizer.state.values() for k, v in values.items() if k.startswith("exp_avg")]
    return {
        "loss": done.loss,
        "computed": {str(t) for pair in seen for t in pair},
        "kept": {str(p.dtype) for p in module.parameters()} | {str(t) for t in state},
        "moved": float(np.abs(full(module.model.lm_head.weight) - before).max()),
    }


def _all_cases(rank: int, size: int, folder: Path, ports: list[int]) -> dict[int, dict[str, Any]]:
    places: dict[int, dict[str, Any]] = {}
    for (ranks, cases), port in zip(PLACES.items(), ports, strict=True):
        if rank >= ranks:
            continue
        os.environ |= {"WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)}
        with process_group(torch.device("cpu"), timeout_minutes=1) as world:
            assert (world.rank, world.size) == (rank, ranks)
            found = places[ranks] = {name: _train_sharded(folder, case, world) for name, case in cases.items()}
            if ranks == 2:
                found["bf16"] = _half_precision(folder, world)
                local = sharded(folder / "tied", world, "fp32").model.lm_head.weight.to_local()
                found["rows here"] = {"rows": len(local)}
                found["world"] = {"sum": world.sum(rank + 1), "any": world.any(rank == 1), "none": world.any(False)}
            if ranks == 3:
                with pytest.raises(RecipeError) as refused:
                    sharded(folder / "tied", world, "fp32", replicas=2)
                found["refused"] = {"message": str(refused.value)}
            if ranks == 4:
                table = sharded(folder / "tied", world, "fp32", replicas=2).model.lm_head.weight
                found["old rows"] = {"of shard": [old_rows(table, split) for split in (0, 1, 34, 35, 66, 67, 70)]}
    return places


@cache
def _plain(folder: Path, tied: bool, sequences: int) -> dict[str, Any]:
    """The same updates by the book: whole batch, whole model, mean over all targets of the step."""
    recipe, text = _recipe({"sequences": sequences, "micro_batch": 1}), mixture(folder)
    source = folder / ("tied" if tied else "untied")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="sdpa").train()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.lr, betas=(0.9, 0.95),
    )  # fmt: skip
    found: dict[str, Any] = {"losses": [], "norms": [], "gradients": []}
    for step in range(STEPS):
        inputs, labels = text.rows(list(range(step * recipe.sequences, (step + 1) * recipe.sequences)))
        logits = model(input_ids=inputs, position_ids=positions(inputs, START), use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        found["losses"].append(float(loss.detach()))
        found["targets"] = int((labels[:, 1:] != -100).sum())
        found["gradients"].append({"model." + n: full(p.grad) for n, p in model.named_parameters()})
        found["norms"].append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))
        optimizer.step()
    found["weights"] = {"model." + n: full(p) for n, p in model.named_parameters()}
    found["buffers"] = {"model." + n: b.numpy().copy() for n, b in model.named_buffers()}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shard")
    for name in ("tied", "untied"):
        make_model(VOCAB, tied=name == "tied").save_pretrained(folder / name)
    _write_data(folder)
    return folder


@pytest.fixture(scope="module")
def places(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """Number of ranks -> what each rank found."""
    found = run_ranks(4, _all_cases, folder, [free_port() for _ in PLACES])
    return {size: [of_rank[size] for of_rank in found[:size]] for size in PLACES}


@pytest.fixture(scope="module")
def ranks(places: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return places[2]


def _equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], atol: float, rtol: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)


def _equal_weights(found: dict[str, np.ndarray], expected: dict[str, Any]) -> None:
    """Adam divides by the gradient's own size: where that is rounding noise of 1e-7, so is the update of lr, 1e-2."""
    assert found.keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        smallest = np.min([np.abs(gradients[name]) for gradients in expected["gradients"]], axis=0)
        rounding = 5e-6 + 1e-2 * np.minimum(1, 1e-7 / np.maximum(smallest, 1e-12))
        assert (np.abs(found[name] - value) <= rounding).all(), name


@pytest.mark.parametrize("size", PLACES)
def test_the_ranks_of_the_cases_have_unequal_numbers_of_targets(folder: Path, size: int) -> None:
    _, labels = mixture(folder).rows(list(range(6)))
    targets = [int((labels[rank::size, 1:] != -100).sum()) for rank in range(size)]
    assert len(set(targets)) > 1, "the data would not notice a mean over ranks"


@pytest.mark.parametrize(("size", "name"), ALL)
def test_ranks_train_as_a_plain_model_does(
    folder: Path, places: dict[int, list[dict[str, Any]]], size: int, name: str
) -> None:
    case = PLACES[size][name]
    expected = _plain(folder, case["tied"], case["sequences"])
    for found in (rank[name] for rank in places[size]):
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-6)
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-6)
        _equal(found["gradients"][0], expected["gradients"][0], atol=1e-6, rtol=1e-6)
        _equal_weights(found["weights"], expected)
        assert found["tokens"] == case["sequences"] * LENGTH
        assert found["targets"] == expected["targets"]
        assert found["tie"] is case["tied"]
        assert any("inv_freq" in buffer for buffer in found["buffers"])
        _equal(found["buffers"], expected["buffers"], atol=0)


@pytest.mark.parametrize(
    ("size", "name", "shards"),
    [(2, "accumulated", 2), (4, "accumulated", 4), (4, "accumulated, two replicas", 2)],
)
def test_between_micro_batches_a_rank_holds_the_gradients_of_its_shard(
    places: dict[int, list[dict[str, Any]]], size: int, name: str, shards: int
) -> None:
    for found in (rank[name] for rank in places[size]):
        assert found["between"][0] == 0 and len(found["between"]) == STEPS * math.ceil(7 / size)
        # Rows that do not divide are padded to the largest shard's.
        assert found["between"][1] / found["parameters"] == pytest.approx(4 / shards, rel=0.1)


def test_replicas_make_a_table_of_ranks_and_one_line_otherwise(places: dict[int, list[dict[str, Any]]]) -> None:
    for found in places[4]:
        assert found["tied"]["mesh"] == (4,) and found["tied, two replicas"]["mesh"] == (2, 2)


def test_old_rows_are_counted_within_a_replica(places: dict[int, list[dict[str, Any]]]) -> None:
    for rank, found in enumerate(places[4]):
        expected = [0, 1, 34, 34, 34, 34, 34] if rank % 2 == 0 else [0, 0, 0, 1, 32, 33, 33]
        assert found["old rows"]["of shard"] == expected


def test_replicas_that_do_not_divide_the_ranks_are_refused(places: dict[int, list[dict[str, Any]]]) -> None:
    for found in places[3]:
        assert found["refused"]["message"].startswith("train.replicas: 2 does not divide the 3 ranks")


@pytest.mark.parametrize("name", [*CASES, "compiled"])
def test_one_rank_trains_as_a_plain_model_does(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES.get(name, COMPILED)
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # inductor takes half a minute
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        assert world.size == 1
        found = _train_sharded(folder, case, world)
    expected = _plain(folder, case["tied"], case["sequences"])
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-6)
    _equal(found["gradients"][0], expected["gradients"][0], atol=1e-6, rtol=1e-6)


def test_the_rows_of_the_head_are_shared_out(ranks: list[dict[str, Any]]) -> None:
    assert [rank["rows here"]["rows"] for rank in ranks] == [34, 33]


def test_activations_are_recomputed_only_if_asked(ranks: list[dict[str, Any]]) -> None:
    micro_batches = 1  # of the two sequences that a rank has
    assert ranks[0]["recomputed"]["forwards"] == 2 * STEPS * micro_batches
    assert ranks[0]["untied"]["forwards"] == STEPS * micro_batches


def test_bf16_computes_in_bf16_and_keeps_fp32(ranks: list[dict[str, Any]]) -> None:
    for found in (rank["bf16"] for rank in ranks):
        assert found["computed"] == {"torch.bfloat16"}
        assert found["kept"] == {"torch.float32"}
        assert found["moved"] > 0
        assert found["loss"] == pytest.approx(ranks[0]["tied"]["losses"][0], rel=0.02)


def test_sums_and_flags_reach_all_ranks(ranks: list[dict[str, Any]]) -> None:
    assert all(rank["world"] == {"sum": 3.0, "any": True, "none": False} for rank in ranks)


def test_cuda_without_a_gpu_is_the_recipe_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(RecipeError, match="device: 'cuda'"):
        choose_device("cuda")


def test_more_ranks_than_gpus_is_the_recipe_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(RecipeError, match="--nproc-per-node 1"):
        choose_device("auto")


def test_a_model_without_layers_is_refused_by_name() -> None:
    model = make_model(VOCAB)
    del model.model.layers
    with pytest.raises(RecipeError, match=r"LlamaForCausalLM keeps its blocks elsewhere"):
        blocks(model)
