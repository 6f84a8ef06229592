"""A Hugging Face folder as a model, if training can go on from it: what is wrong with a base shows only in figures.

    config.json ─► the model without weights ─► its blocks, its head, experts      check_structure, at every start
    tokenizer.json ─► as it stands, and as transformers loads it                   check_tokenizer, at every start
    weights ─► logits and hidden states                                            check_head, when loaded whole
    weights ─► two documents in one row, and the second alone                      check_isolation, once
    weights, ids of the grown tokenizer ─► a row for each token                    grow_rows
    weights with a tied head ─► two tables                                         untie_head

Shapes: B sequences, T tokens, D hidden size, V vocabulary.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.model.tensors import Tensors
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.run.folder import say

REMEDY = "choose a dense Llama-, Mistral-, Qwen- or Gemma-3-like model (docs/bases.md lists those that were tried)"

PLAIN_HEAD = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0, "lm_head_multiplier": 1.0}
"""Keys of configurations that change the logits, and the value that does not."""

ROOM = 3e9
"""Bytes of a GPU that reading a batch of text takes beside the model."""

LEAK = 1e-3
"""Nats by which a token's loss may depend on the document before it: not at all in 36 tiny models of
attention alone and in SmolLM2, by 0.05 to 5 with a recurrent state or a convolution (benchmarks/architectures.py)."""

PROBES = [
    "In 1999, 12 men paid $3.50.\n\n7 left.\n    12 spaces\n\n1. Größe 42, №5: «Съешь 30 булок» 2026年11月27日 २५ x²½",
    "it's we'll I'M they've  ''x'' don't\r\n\tа1б2в3\u00a04  \U0001f600 e\u0301 東京は12℃です。 मैं हूँ। ٣٤٥ كتاب ไทย",
]
"""Texts that tell pre-tokenizers and normalizers apart. None begins with a space, which transformers and tokenizer.json
of Llama 2 write differently; to no harm, since a document's start is spelled alike in training and use."""


def load_whole(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a folder on the CPU, from safetensors only.

    To cast it later is not the same: that would round the rotary frequencies too, which are fp32 in any model.

    Raises:
        RecipeError: its logits are not made as `check_head` wants them.
    """
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, local_files_only=True
    )
    check_head(model)
    return model


def reading_device(folder: Path, dtype: torch.dtype, device: torch.device) -> torch.device:
    """Where one process can read text with the model of a folder: `device`, or the CPU where that GPU has not the
    memory for it now, which is said."""
    if device.type == "cpu":
        return device
    with Tensors(folder) as tensors:
        numbers = sum(math.prod(tensors.shape(name)) for name in tensors.places)
    needed, free = numbers * dtype.itemsize + ROOM, torch.cuda.mem_get_info(device)[0]
    if needed <= free:
        return device
    say(f"{folder} takes {needed / 1e9:.0f} GB, the GPU has {free / 1e9:.0f} GB free: it is read with on the CPU")
    return torch.device("cpu")


def check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compare the tokenizer that transformers loaded with the folder's tokenizer.json, if it has one.

    Some classes that a tokenizer_config.json can name are built anew from vocabulary and merges, with a pre-tokenizer
    of their own: the ids are then others than the model was trained on.

    Raises:
        RecipeError: they give different ids.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    raw = Tokenizer.from_file(str(path))
    for text in PROBES:
        if raw.encode(text, add_special_tokens=False).ids != tokenizer.encode(text, add_special_tokens=False):
            raise RecipeError(
                f"base.model: {path} gives other tokens than transformers, which loads it as {type(tokenizer).__name__}"
                f'; put "tokenizer_class": "PreTrainedTokenizerFast" into {folder / "tokenizer_config.json"}'
            )


def check_structure(folder: Path) -> None:
    """Build the model of a folder without its weights and look at its parts.

    Raises:
        RecipeError: transformers does not know it, or not with SDPA attention; its blocks are elsewhere than in
            `layers`; it has experts, or further tables by token; its head has a bias, a factor or a cap; it is not
            causal, or recurrent.
    """
    model = _without_weights(folder)
    blocks(model)
    name = type(model).__name__
    if any(part.rpartition(".")[2] == "experts" or _is_mixture(module) for part, module in model.named_modules()):
        raise RecipeError(
            f"base.model: {name} is a mixture of experts, whose load-balancing loss is not computed here, so experts "
            f"would fall idle; {REMEDY}"
        )
    if model.get_output_embeddings().bias is not None:
        raise RecipeError(f"base.model: the head of {name} has a bias, which is not supported; {REMEDY}")
    for key, plain in PLAIN_HEAD.items():
        value = getattr(model.config, key, plain)
        if value not in (plain, None):
            raise RecipeError(f"base.model: {name} changes its logits ({key} = {value}), unsupported; {REMEDY}")
    _without_weights(folder, attn_implementation="sdpa")
    table = model.get_input_embeddings()
    for part, module in model.named_modules():
        if "embed_tokens" in part and isinstance(module, nn.Embedding) and module is not table:
            raise RecipeError(
                f"base.model: {name} has a second table with a row for each token ({part}), which would not grow with "
                f"the vocabulary; {REMEDY}"
            )
    if getattr(model.config, "use_bidirectional_attention", False) in (True, "all"):
        raise RecipeError(f"base.model: {name} lets a token attend to those after it, which is unsupported; {REMEDY}")
    if model._is_stateful or "conv" in (getattr(model.config, "layer_types", None) or ()):
        raise RecipeError(
            f"base.model: {name} carries a state from one document of a packed row into the next, which is not "
            f"supported; {REMEDY}"
        )


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not its hidden states times the head's rows, as all losses here assume.

    Raises:
        RecipeError: the logits are soft-capped, scaled or have a bias, as in Gemma 2, Granite or Phi.
    """
    ids = torch.arange(1, 9, device=model.device)[None]
    theirs = model(input_ids=ids, use_cache=False).logits.float()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    ours = (hidden @ model.get_output_embeddings().weight.T).float()
    # Nothing but rounding may differ. Real logits are large enough for a cap to show.
    if (ours - theirs).abs().max() > 0.02 * theirs.abs().max():
        raise RecipeError(
            f"base.model: {type(model).__name__} does more to its logits than multiply by the head's rows (a soft cap, "
            f"a factor or a bias), which is not supported; {REMEDY}"
        )


@torch.no_grad()
def check_isolation(model: PreTrainedModel) -> None:
    """Refuse a model that reads over the border between two documents of a packed row.

    Raises:
        RecipeError: a token's loss depends on the document before its own.
    """
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(1, model.get_input_embeddings().weight.shape[0] // 2, (2, 1, 16), generator=generator)
    packed = torch.cat([first, second], dim=1)
    positions = torch.arange(16).repeat(2)[None]
    together = model.base_model(input_ids=packed, position_ids=positions, use_cache=False).last_hidden_state[:, 16:]
    alone = model.base_model(input_ids=second, position_ids=positions[:, :16], use_cache=False).last_hidden_state
    head = model.get_output_embeddings().weight
    nats = [
        F.cross_entropy((hidden[0, :-1] @ head.T).float(), second[0, 1:], reduction="none")
        for hidden in (together, alone)
    ]
    difference = (nats[0] - nats[1]).abs().max().item()
    if difference > LEAK:
        raise RecipeError(
            f"base.model: {type(model).__name__} carries its state from one document of a packed row into the next (a "
            f"token's loss changes by {difference:.2g} nats), which is not supported; {REMEDY}"
        )


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks, which are sharded and recomputed one by one.

    Raises:
        RecipeError: they are elsewhere than in `layers`.
    """
    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        raise RecipeError(f"base.model: {type(model).__name__} keeps its blocks elsewhere than in `layers`; {REMEDY}")
    return list(layers)


@torch.no_grad()
def grow_rows(model: PreTrainedModel, num_tokens: int, num_old_tokens: int) -> None:
    """Resize input and output embeddings to exactly `num_tokens` rows, in place; without new tokens change nothing.

    Old rows stay as they are, bit for bit; new rows start as the mean of the rows that belong to a token, a defined,
    harmless place until the alignment stage fills them. Hugging Face's own `mean_resizing` samples around that mean
    with a covariance so small that the rows come out equal anyway, and takes minutes for it.

    Args:
        model: a causal language model; tied embeddings stay tied, `config.vocab_size` follows.
        num_tokens: rows afterwards: the grown tokenizer's highest id and one. Rows that padded the matrix beyond it are
            cut off.
        num_old_tokens: the grown tokenizer's first new id. Rows from there on, also those that padded the matrix,
            become the mean of the rows before; so do rows of old tokens that had none (in Gemma 3's text models the
            token for images, which is in no text).

    Raises:
        ValueError: there are fewer tokens than before.
    """
    if num_tokens < num_old_tokens:
        raise ValueError(f"{num_old_tokens} old tokens and {num_tokens} rows wanted: an old token would lose its row")
    if num_tokens == num_old_tokens:
        return
    num_kept = min(num_old_tokens, model.get_input_embeddings().weight.shape[0])
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    assert (layers[0].weight is layers[1].weight) == tied, "resizing changed whether the embeddings are tied"
    for table in (layer.weight for layer in layers):
        wide = torch.float64 if table.dtype == torch.float64 else torch.float32
        table[num_kept:] = table[:num_kept].mean(dim=0, dtype=wide).to(table.dtype)


@torch.no_grad()
def untie_head(model: PreTrainedModel) -> int:
    """Give a tied head a table of its own, in place, with the same rows; one that has it already stays as it is.

    Returns:
        Parameters by which the model has grown.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head.weight is not table.weight:
        return 0
    head.weight = nn.Parameter(table.weight.detach().clone())
    model.config.tie_word_embeddings = False
    return int(head.weight.numel())


def _without_weights(folder: Path, **options: str) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)
    except (ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise RecipeError(f"base.model: {folder}: transformers cannot build it ({reason}); {REMEDY}") from error
    return model


def _is_mixture(module: nn.Module) -> bool:
    return type(module).__name__.lower().endswith(("moe", "experts"))
