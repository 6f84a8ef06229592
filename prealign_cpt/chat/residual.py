"""What instruction tuning gave to a base, added to a model that was trained further from that base.

    export [V + M, D], base [V, D], instruct [V, D] --read--> export + scale (instruct - base), new rows as they were

Chat Vector (arXiv 2310.04799) adds this difference to a model after continual pretraining in another language;
"instruction residual" (arXiv 2410.10739) is another name of it. Here the vocabulary has grown: the rows of the base's
tokens, in embedding and head, take part in the sum, those of new tokens, for which there is no difference, stay. A head
that the export has of its own, since it was untied, takes the difference of the table that it was tied to.

One tensor of each model is in memory at a time, and those of a file that is being written (export/folder.py).
Shapes: V tokens of the base, M new ones, D hidden size.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerBase

from prealign_cpt.model.tensors import Tensors
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.run.errors import DataError

DECIDES = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "hidden_activation", "rms_norm_eps", "rope_parameters", "sliding_window",
    "tie_word_embeddings",
)  # fmt: skip
"""Keys of a configuration that must agree: with others the same weights are another function."""

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class Residual:
    """Reads tensors of the sum. Used as a context; files stay open in it.

    Args:
        export, base, instruct: folders of the models.
        first_new: id of the first new token; None where there are none.

    Raises:
        DataError: the three are not of one architecture, or have other tensors or shapes; all differences are named.
    """

    def __init__(self, export: Path, base: Path, instruct: Path, scale: float, first_new: int | None) -> None:
        self.scale, self._first_new = scale, first_new
        self._models = [Tensors(folder) for folder in (export, base, instruct)]
        configs = [AutoConfig.from_pretrained(folder, local_files_only=True).to_dict() for folder in (base, instruct)]
        faults = [f"{key} {_of(configs, key)}" for key in DECIDES if len({str(one.get(key)) for one in configs}) > 1]
        if str(AutoConfig.from_pretrained(export, local_files_only=True).model_type) != configs[0].get("model_type"):
            faults.append("the export is of another model_type than the base")
        faults = faults or [fault for name in self._models[0].places if (fault := self._fault(name))]
        if faults:
            self.__exit__(None, None, None)
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise DataError(
                f"--instruct: {instruct} is no model that was tuned from {base}: {'; '.join(faults[:3])}{more}; name "
                "the instruct model of exactly this base"
            )

    def __enter__(self) -> "Residual":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        for tensors in self._models:
            tensors.__exit__(kind, error, trace)

    def read(self, name: str) -> Tensor:
        """A tensor of the sum, fp32."""
        export, base, instruct = self._models
        source, old = self._source(name), self._old_rows(name)
        before, after = (model.rows(source, 0, old) if old else model.read(source) for model in (base, instruct))
        difference = (after.float() - before.float()).mul_(self.scale)
        total = export.read(name).float().clone()  # what is read may be the mapped file itself
        part = total[:old] if old else total
        part += difference
        return total

    def _source(self, name: str) -> str:
        """What a tensor of the export was in the base."""
        tied = name == HEAD and not all(name in model.places for model in self._models[1:])
        return EMBEDDING if tied else name

    def _old_rows(self, name: str) -> int:
        """Rows of a table that take part; 0 where all of a tensor does. Rows that pad a table belong to no token."""
        if name not in (HEAD, EMBEDDING):
            return 0
        rows = [model.shape(self._source(name))[0] for model in self._models[1:]]
        return min([*rows, self._models[0].shape(name)[0], self._first_new or rows[0]])

    def _fault(self, name: str) -> str:
        source = self._source(name)
        if missing := [model.folder for model in self._models[1:] if source not in model.places]:
            return f"{source} is not in {missing[0]}"
        shapes = [self._models[0].shape(name), *(model.shape(source) for model in self._models[1:])]
        first = 1 if name in (HEAD, EMBEDDING) else 0
        return f"{name} is {shapes}" if len({shape[first:] for shape in shapes}) > 1 else ""


def check_tokens(grown: PreTrainedTokenizerBase, instruct: PreTrainedTokenizerBase) -> None:
    """Compare the ids of an instruct model's tokens with those that the grown tokenizer gives them.

    Raises:
        DataError: a token has another id or none; it is named.
    """
    known = grown.get_vocab()
    for token, number in sorted(instruct.get_vocab().items(), key=lambda one: one[1]):
        if known.get(token) != number:
            place = f"id {known[token]}" if token in known else "no token"
            raise DataError(
                f"--instruct: {instruct.name_or_path}: token {token!r} (id {number} of {num_ids(instruct)}) is {place} "
                "in the grown tokenizer; name the instruct model of exactly this base, with the same vocabulary"
            )


def _of(configs: list[dict[str, Any]], key: str) -> str:
    return " and ".join(str(one.get(key)) for one in configs)
