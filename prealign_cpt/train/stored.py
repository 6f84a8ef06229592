"""Reading checkpoints, without running anything that stands in them.

    train/step-…/.metadata --restricted unpickling--> what is stored --compared with what is expected--> tensors

torch takes `.metadata`, which is a pickle, and the entries that are no tensors as they are. Here the first is parsed
with a list of the names it may use, the others as plain values, and the tensors must be those that are expected: torch
would cast another dtype and pass over tensors nobody asks for. Any number of ranks may read what another number wrote.
"""

import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, Metadata
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.run.errors import DataError, PrealignError
from prealign_cpt.run.manifest import read_manifest
from prealign_cpt.run.signals import StoppedError
from prealign_cpt.train.adapters import COMPUTED

_ALLOWED = {
    *(("torch.distributed.checkpoint.metadata", name) for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("collections", "OrderedDict"),
}  # fmt: skip


def load(path: Path, module: LanguageModelLoss, optimizer: torch.optim.Optimizer) -> int:
    """Fill a sharded module and its optimizer from a verified checkpoint; return its step.

    Raises:
        DataError: it holds other tensors than these, or no optimizer state.
    """
    state = stored_state(module, optimizer)
    _read(state, path)
    set_state_dict(
        module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"],
        options=StateDictOptions(strict=False),  # what is frozen is not there
    )  # fmt: skip
    return int(read_manifest(path)["about"]["step"])


class Weights:
    """The weights of a verified checkpoint that moved, read one by one, in a process of its own without ranks.

    Args:
        path: of the checkpoint.
        module: without weights (meta device).

    Raises:
        DataError: the checkpoint holds other weights than the module has.
    """

    def __init__(self, path: Path, module: LanguageModelLoss) -> None:
        self.path = path
        dtype = COMPUTED[read_manifest(path)["about"].get("dtype", "fp32")]
        self._expected = {
            f"model.{name}": tensor.to(dtype) for name, tensor in _moving(module, module.state_dict()).items()
        }
        self._metadata = read_metadata(path)  # as long as a checkpoint has tensors: once for all of them
        try:
            _check_tensors(self._metadata, self._expected, "model.")
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the Hugging Face model, by its name there, as it was trained: fp32, on the CPU. A milestone's has
        been rounded to what training computed with."""
        key = f"model.model.{name}"
        tensor = torch.empty_like(self._expected[key], device="cpu")
        _read({key: tensor}, self.path, key, self._metadata)
        return tensor.float()


def stored_state(module: LanguageModelLoss, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """What a checkpoint holds, by part and name; the tensors are those of module and optimizer.

    Frozen weights are not in it: they are still those that training began with.
    """
    if optimizer is None:
        return {"model": _moving(module, get_model_state_dict(module))}
    model_state, optimizer_state = get_state_dict(module, optimizer)
    return {"model": _moving(module, model_state), "optimizer": optimizer_state}


def _moving(module: LanguageModelLoss, state: dict[str, Any]) -> dict[str, Any]:
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: value for name, value in state.items() if name not in frozen}


def read_metadata(folder: Path) -> Metadata:
    """What a checkpoint's `.metadata` says.

    Raises:
        DataError: it is damaged, or asks for something that is no part of a description of tensors.
    """
    path = folder / ".metadata"
    try:
        metadata = _Unpickler(io.BytesIO(path.read_bytes())).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"it holds a {type(metadata).__name__}")
    except StoppedError:  # a signal that came just then says nothing of the file
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise DataError(f"{path}: not the description of a checkpoint ({error}); do not use this folder") from error
    return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _Reader(FileSystemReader):
    """torch's reader, with the restricted `read_metadata`, or what that has given already."""

    def __init__(self, path: Path, known: Metadata | None) -> None:
        super().__init__(path)
        self.known = known

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata = self.known or read_metadata(Path(os.fspath(self.path)))
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    """torch's planner, which takes exactly what is asked for and plain values only.

    Args:
        part: the keys of the checkpoint that must agree start so; the others are not asked for.
    """

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        _check_tensors(self.metadata, flatten_state_dict(self.original_state_dict)[0], self.part)
        return super().create_local_plan()

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)  # raises if it is anything but plain values
        plain.seek(0)
        super().load_bytes(read_item, plain)


def _read(state: dict[str, Any], path: Path, part: str = "", alone: Metadata | None = None) -> None:
    """Fill a state; on all ranks together, or with metadata that is known by this process alone."""
    try:
        with warnings.catch_warnings():  # that nothing is distributed, for each tensor that is read alone
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(state, storage_reader=_Reader(path, alone), planner=_Planner(part), no_dist=bool(alone))
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, PrealignError):
            raise type(cause)(f"{path}: {cause}") from error
        raise DataError(f"{path}: cannot be read: {cause}; start again with --redo train") from error


def _check_tensors(metadata: Metadata, state: dict[str, Any], part: str) -> None:
    """Compare what is stored with a flat state dict.

    Raises:
        DataError: keys are missing or too many, or a tensor has another shape or type; some are named.
    """
    stored = {key: value for key, value in metadata.state_dict_metadata.items() if key.startswith(part)}
    if not any(key.startswith("optimizer.") for key in stored) and any(key.startswith("optimizer.") for key in state):
        raise DataError(
            "the checkpoint holds no state of the optimizer, so training cannot go on from it; start again with "
            "--redo train, or export it and make it the base.model of another run"
        )
    problems = [f"{key} is missing" for key in state.keys() - stored.keys()]
    problems += [f"{key} is not expected" for key in stored.keys() - state.keys()]
    for key in state.keys() & stored.keys():
        there, expected = stored[key], state[key]
        if isinstance(expected, torch.Tensor) != isinstance(there, TensorStorageMetadata):
            problems.append(f"{key} is of another kind")
        elif isinstance(there, TensorStorageMetadata):
            form = (there.properties.dtype, tuple(there.size))
            if form != (expected.dtype, tuple(expected.shape)):
                problems.append(f"{key} is {form} where {(expected.dtype, tuple(expected.shape))} is expected")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(
            f"the checkpoint is of another model or optimizer: {'; '.join(sorted(problems)[:3])}{more}; start again "
            "with --redo train, or give the run another name"
        )
