"""The text of an answer while it is written: no half characters, nothing of a stop string, and calls as calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream

from xtune.chat.generate import begun
from xtune.chat.partial import as_words, so_far, whole
from xtune.errors import DataError
from xtune.templates.template import Template
from xtune.templates.tool_calls import STOP_STRINGS, ParsedAnswer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Answer:
    """An answer that grows by tokens.

    stop       strings that end it, and are no part of it
    with_tools whether calls are looked for: the model was shown tools
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: Template,
        stop: Sequence[str] = (),
        with_tools: bool = False,
    ):
        self._tokenizer, self._template = tokenizer.backend_tokenizer, template
        self._tools = with_tools and template.tool_calls is not None
        self._stop = [*stop, *(STOP_STRINGS.get(template.tool_calls, ()) if self._tools else ())]
        # calls are written with control tokens
        self._stream = DecodeStream(skip_special_tokens=not self._tools)
        self._text = ""

    def take(self, token: int) -> bool:
        """Add a token. Returns whether the answer ends, as it came to a stop string."""
        piece = self._stream.step(self._tokenizer, token)
        if not piece:  # the rest of a character is still to come
            return False
        searched = len(self._text)
        self._text += piece
        found = [self._text.find(stop, max(0, searched - len(stop))) for stop in self._stop]
        if ends := [place for place in found if place >= 0]:
            self._text = self._text[: min(ends)]
        return bool(ends)

    def so_far(self) -> ParsedAnswer:
        """What is certain to be in the answer, whatever follows."""
        text = self._text[: len(self._text) - begun(self._text, self._stop)]
        return so_far(text, self._template, self._tools)

    def whole(self) -> ParsedAnswer:
        """The answer, now that it has ended. A call that cannot be read stays text, as the model wrote it."""
        try:
            return whole(self._text, self._template, self._tools)
        except DataError:
            return as_words(self._text, self._template)
