"""Reading the files of torch.distributed.checkpoint without running anything that stands in them.

`.metadata` is a pickle, and so are the entries that are no tensors; torch reads both as they are. Here the first is
parsed with a list of the names it may use, the others as plain values, and the tensors must be those that are expected:
torch would cast another dtype and pass over tensors nobody asks for.
"""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, Metadata
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem

from prealign_cpt.run.errors import DataError

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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_metadata(folder: Path) -> Metadata:
    """What a checkpoint's `.metadata` says.

    Raises:
        DataError: it is damaged, or asks for something that is no part of a description of tensors.
    """
    path = folder / ".metadata"
    try:
        found = _Unpickler(io.BytesIO(path.read_bytes())).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise DataError(f"{path}: not the description of a checkpoint ({error}); do not use this folder") from error
    return found


class Reader(FileSystemReader):
    """torch's reader, with the restricted `read_metadata`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        read_metadata(Path(os.fspath(self.path)))
        return super().read_metadata(*args, **kwargs)


class Planner(DefaultLoadPlanner):
    """torch's planner, which takes exactly what is asked for and plain values only.

    Args:
        part: the keys of the checkpoint that must agree start so; the others are not asked for.
    """

    def __init__(self, part: str = "") -> None:
        super().__init__()
        self.part = part

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        check_tensors(self.metadata, flatten_state_dict(self.original_state_dict)[0], self.part)
        return super().create_local_plan()

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)  # raises if it is anything but plain values
        plain.seek(0)
        super().load_bytes(read_item, plain)


def check_tensors(metadata: Metadata, state: dict[str, Any], part: str = "") -> None:
    """Compare what is stored with a flat state dict.

    Raises:
        DataError: keys are missing or too many, or a tensor has another shape or type; some are named.
    """
    stored = {key: value for key, value in metadata.state_dict_metadata.items() if key.startswith(part)}
    if not any(key.startswith("optimizer.") for key in stored) and any(key.startswith("optimizer.") for key in state):
        raise DataError(
            "the checkpoint holds no state of the optimizer, so training cannot go on from it; start again with "
            "--redo cpt, or export it and make it the base.model of another run"
        )
    problems = [f"{key} is missing" for key in state.keys() - stored.keys()]
    problems += [f"{key} is not expected" for key in stored.keys() - state.keys()]
    for key in state.keys() & stored.keys():
        there, wanted = stored[key], state[key]
        if isinstance(wanted, torch.Tensor) != isinstance(there, TensorStorageMetadata):
            problems.append(f"{key} is of another kind")
        elif isinstance(there, TensorStorageMetadata):
            kinds = (there.properties.dtype, tuple(there.size)), (wanted.dtype, tuple(wanted.shape))
            if kinds[0] != kinds[1]:
                problems.append(f"{key} is {kinds[0]} where {kinds[1]} is expected")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(
            f"the checkpoint is of another model or optimizer: {'; '.join(sorted(problems)[:3])}{more}; start again "
            "with --redo cpt, or give the run another name"
        )
