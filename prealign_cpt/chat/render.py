"""Conversations to token ids by the tokenizer's own chat template, and which of them are learned: the answers.

    messages --apply_chat_template--> ids      <bos>[INST] question [/INST] answer</s>
                                    learned                            ^^^^^^^^^^

An answer begins where the prompt ends that a server would make of the turns before it, and ends with the token that
ends its turn; what a template writes behind that token (a line end) is not the model's to write. Both are found by
rendering, with no knowledge of any template: ids of a prompt, and of the turns up to an answer, must be a beginning of
the ids of the whole. Where they are not (a template that drops the thoughts of earlier turns, a token across the
border) that answer is not learned.

The mask that transformers makes of a template's `{% generation %}` tags is not used: it may leave out the token that
ends the turn, and leaves out (5.19) the rest of a last character that is several tokens.
"""

from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from prealign_cpt.chat.instructions import Messages
from prealign_cpt.data.word_spans import Ids
from prealign_cpt.run.errors import RecipeError


class Renderer:
    """Renders with one tokenizer.

    Attributes:
        turn_end: id of the token that ends an answer, None where the template writes none.

    Raises:
        RecipeError: the tokenizer has no chat template, or one that cannot render a question and its answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = set(tokenizer.all_special_ids) | added
        self._spelled = tokenizer.convert_ids_to_tokens(sorted(self._special))
        if not tokenizer.chat_template:
            raise RecipeError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; name a Jinja file with chat.template, "
                "or take an instruct model's with --instruct"
            )
        try:
            example = self.example((("user", "1"), ("assistant", "2")))
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise RecipeError(f"chat template: cannot render a question and its answer ({error})") from error
        if example is None:
            raise RecipeError(
                "chat template: the prompt for an answer is no beginning of the conversation with the answer, so "
                "nobody can tell what to learn; name another with chat.template"
            )
        ids, learned = example
        last = int(ids[learned][-1])
        self.turn_end = last if last in self._special else None

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of what a model is given to answer."""
        return self._ids(messages, add_generation_prompt=True)

    def example(self, messages: Messages) -> tuple[Ids, np.ndarray] | None:
        """Ids int32 [T] and which of them are learned, bool [T]; None where no answer has exact borders, or a content
        spells a special token, which would end a turn in its midst.

        Raises:
            jinja2.TemplateError: the template refuses the conversation.
        """
        if any(text in content for _, content in messages for text in self._spelled):
            return None
        ids = self._ids(messages)
        learned = np.zeros(len(ids), dtype=bool)
        for i, (role, _) in enumerate(messages):
            if role == "assistant":
                begin, until = self.prompt(messages[:i]), self._ids(messages[: i + 1])
                if ids[: len(begin)] == begin and ids[: len(until)] == until:
                    learned[len(begin) : self._end(until, len(begin))] = True
        return (np.array(ids, dtype=np.int32), learned) if learned.any() else None

    def _end(self, ids: Sequence[int], begin: int) -> int:
        """The place behind the last special token from `begin` on, or the end where there is none."""
        return next((i + 1 for i in range(len(ids) - 1, begin - 1, -1) if ids[i] in self._special), len(ids))

    def _ids(self, messages: Messages, **options: Any) -> list[int]:
        turns = [{"role": role, "content": content} for role, content in messages]
        rendered: Any = self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, **options)
        return list(rendered["input_ids"])
