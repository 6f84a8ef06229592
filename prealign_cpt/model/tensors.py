"""The tensors of a Hugging Face folder, read one by one or in part, and written so, that nobody holds the whole model.

model.safetensors, or model.safetensors.index.json + parts --Tensors--> a tensor, or rows of it
a tensor by its name --write_weights--> the same files
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.run.manifest import atomic_write

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"

SHARD_SIZE = 5_000_000_000
"""Bytes of a file of weights; so much is held in memory at once."""


class Tensors:
    """Names, shapes and rows of a folder's tensors. Used as a context; files stay open in it.

    Args:
        folder: with `model.safetensors`, or an index of several files.

    Raises:
        MissingInputError: it has neither.
        DataError: the index is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[Path, Any] = {}
        self._stack = ExitStack()
        if (folder / INDEX).is_file():
            try:
                places: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            except (ValueError, KeyError) as error:
                raise DataError(f"{folder / INDEX}: not an index of tensors; write the folder again") from error
            self.places = {name: folder / file for name, file in places.items()}
        elif (folder / SINGLE).is_file():
            self.places = dict.fromkeys(self._file(folder / SINGLE).keys(), folder / SINGLE)
        else:
            raise MissingInputError(f"{folder}: neither {SINGLE} nor {INDEX}; save the model as safetensors")

    def __enter__(self) -> "Tensors":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        self._open.clear()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, unread."""
        return tuple(self._file(self.places[name]).get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """A whole tensor, of the type it is stored in."""
        return self._file(self.places[name]).get_tensor(name)

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Some rows of a tensor; only these are read."""
        part: Tensor = self._file(self.places[name]).get_slice(name)[first : first + count]
        return part

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
            except FileNotFoundError as error:
                raise MissingInputError(f"{path}: no such file, although {INDEX} names it") from error
            except SafetensorError as error:
                raise DataError(f"{path}: cannot be read ({error}); write the folder again") from error
        return self._open[path]


def write_weights(
    model: PreTrainedModel, read: Callable[[str], Tensor], out: Path, shard_size: int = SHARD_SIZE
) -> list[str]:
    """Write what `save_pretrained` writes, holding one file's tensors at a time; the names of all tensors.

    Args:
        model: on the meta device, in the types of the export.
        read: a trained tensor by its name.
        shard_size: bytes of a file; a larger tensor has a file of its own.
    """
    model.save_pretrained(out, state_dict={})  # the configurations alone
    ties = model.all_tied_weights_keys
    kept = {name: tensor for name, tensor in model.state_dict().items() if name not in ties}
    split = split_torch_state_dict_into_shards(
        kept, filename_pattern="model{suffix}.safetensors", max_shard_size=shard_size
    )
    for file, names in split.filename_to_tensors.items():
        save_file({name: read(name).to(kept[name].dtype) for name in names}, out / file, metadata={"format": "pt"})
    if split.is_sharded:
        about = {"total_parameters": model.num_parameters(), **split.metadata}
        index = {"metadata": about, "weight_map": split.tensor_to_filename}
        atomic_write(out / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
    return list(kept)


def stored_dtypes(folder: Path) -> set[torch.dtype]:
    """In which types the tensors of a folder are stored; no tensor is read."""
    with Tensors(folder) as tensors:
        return {tensors.rows(name, 0, 0).dtype for name in tensors.places}
