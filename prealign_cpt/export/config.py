"""What the exported configurations say: where a text ends, and RoPE under the names of transformers 4 as well.

transformers 5 keeps all about rotary positions in `rope_parameters`. Older readers (transformers 4, mlx-lm) look for
`rope_theta` and `rope_scaling` beside it, and take 10,000 without a word where there is none.
"""

from typing import Any

from transformers import PreTrainedModel


def set_ends(model: PreTrainedModel, start_id: int, end_id: int | None) -> None:
    """Let generation stop at every token that ends a document: the base's own, the one that was learned, and the start
    token, with which the next document would begin.

    Args:
        model: `config` and `generation_config` are changed in place.
        start_id: becomes `bos_token_id`.
        end_id: None where the start token of the next document is the end of the last.
    """
    ends: dict[int, None] = {}
    for ids in (model.generation_config.eos_token_id, model.config.eos_token_id, end_id, start_id):
        ends |= dict.fromkeys(ids if isinstance(ids, list) else [] if ids is None else [ids])
    own = model.generation_config
    own.eos_token_id = list(ends) if len(ends) > 1 else start_id
    own.bos_token_id = model.config.bos_token_id = start_id
    # Scores and samples must not depend on what the base's authors liked.
    own.do_sample = False
    for name in ("temperature", "top_p", "top_k"):
        setattr(own, name, None)
    # Otherwise transformers may make it anew from config.json, which knows one end only.
    own._from_model_config = False


def with_old_names(config: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json with RoPE where transformers 4 looks too; transformers 5 reads it as before."""
    rope = config.get("rope_parameters")
    if not rope:
        return config
    whole, sliding = rope.get("full_attention", rope), rope.get("sliding_attention")
    old = {"rope_theta": whole["rope_theta"]}
    if whole.get("rope_type", "default") != "default":
        old["rope_scaling"] = {key: value for key, value in whole.items() if key != "rope_theta"}
    if sliding and sliding["rope_theta"] != whole["rope_theta"]:
        old["rope_local_base_freq"] = sliding["rope_theta"]  # Gemma 3
    if "partial_rotary_factor" in whole:
        old["partial_rotary_factor"] = whole["partial_rotary_factor"]
    if config["model_type"] == "gpt_neox":
        old |= {"rotary_emb_base": whole["rope_theta"], "rotary_pct": whole["partial_rotary_factor"]}
    return {**config, **old}
