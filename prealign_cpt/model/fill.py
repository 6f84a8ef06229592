"""Memory for a model that was built without, each rank's part of it read from a folder.

    config.json ─► without_weights ─► sharded or not ─► fill: each rank reads its rows of each tensor

No process holds the whole of a sharded model at any time. All ranks read the same folder; nothing is sent.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prealign_cpt.model.tables import stored_rows
from prealign_cpt.model.tensors import Tensors
from prealign_cpt.model.world import first_row, local_shard
from prealign_cpt.run.errors import DataError


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules that are built here have parameters without memory; buffers, which are in no checkpoint, are computed."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # one that is tied to another comes a second time
            parameter = nn.Parameter(parameter.to("meta"))
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


@torch.no_grad()
def fill(
    module: nn.Module,
    model: PreTrainedModel,
    folder: Path,
    device: torch.device,
    given: Mapping[str, Tensor] | None = None,
    left_out: Collection[str] = (),
    offload: bool = False,
) -> None:
    """Give a model its memory, and each of its shards its rows of a folder's tensors.

    Args:
        module: what was sharded last, around the model or in it; the model itself if nothing was.
        given: values of parameters that the folder does not hold, by name.
        left_out: names of tensors in the folder that no parameter takes.
        offload: keep the parameters in host memory; `device` is then that of the buffers.

    Raises:
        DataError: the tensors are not those of the model.
    """
    given = given or {}
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    places = {name: stored_rows(model, name) for alike in names.values() for name in alike}
    module.to_empty(device="cpu" if offload else device)
    for first, *others in names.values():  # to_empty gives each name a tensor of its own
        for name in others:
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._parameters[leaf] = model.get_parameter(first)
    with Tensors(folder) as tensors:
        left = set(tensors.places)
        for alike in names.values():
            parameter = model.get_parameter(alike[0])
            local, first_of_rank = local_shard(parameter), first_row(parameter)
            if alike[0] in given:
                local.copy_(given[alike[0]][first_of_rank : first_of_rank + len(local)])
                continue
            found = [places[name] for name in alike]
            place = next((place for place in found if place.name in tensors.places), None)
            if place is None or tensors.shape(place.name) != (place.rows, *parameter.shape[1:]):
                fault = "missing" if place is None else f"{tensors.shape(place.name)}"
                raise _foreign(folder, found[0].name, fault)
            left -= {place.name for place in found}
            if len(local):
                local.copy_(tensors.rows(place.name, place.first + first_of_rank, len(local)))
        left -= set(left_out)
        for name, before in buffers.items():
            owner, _, leaf = name.rpartition(".")
            value = tensors.read(name) if name in left else before
            model.get_submodule(owner)._buffers[leaf] = value.to(device, before.dtype)
            left.discard(name)
    if left:
        raise _foreign(folder, min(left), "not expected")


def _foreign(folder: Path, name: str, fault: str) -> DataError:
    return DataError(
        f"{folder}: {name} is {fault}, other than its config.json says; load the folder with transformers and save it "
        "again, so that its tensors are those of the model"
    )
