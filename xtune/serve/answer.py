"""The text of an answer while it is written: no half characters, nothing of a stop string, and calls as calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream

from xtune.chat.generate import begun
from xtune.errors import DataError
from xtune.templates.template import Template
from xtune.templates.tool_calls import ParsedAnswer, parse_tool_calls

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CALL = {
    "internlm2": r"<\|action_start\|>",
    "hermes": r"<tool_call>",
    "chatglm3": r"<\|assistant\|>|\A[^\n]",  # an answer begins with an empty line, a call with a name
    "glm4": r"<\|assistant\|>|\A[^\n]",
    "llama3_1": r"\A\s*(?:\{|<\|python_tag\|>)",
    "react": r"\A",  # what is a thought and what the answer shows at the end
}
"""Where a call may begin, by Template.tool_calls: from there on nothing is certain before the end."""
_STOP_OF_RESULTS = {"react": ["\nObservation:"]}
"""What ends a call of formats that have no token for it: behind it a model would make up the result."""


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
        self._format = template.tool_calls if with_tools else None
        self._stop = [*stop, *_STOP_OF_RESULTS.get(self._format or "", ())]
        # calls are written with control tokens
        self._stream = DecodeStream(skip_special_tokens=self._format is None)
        self._text = ""
        self._thinks = "<think>" in template.guarded_tokens
        self._tokens = ("<tool_call>", *template.guarded_tokens)  # which may come in pieces

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
        if self._thinks and "<think>".startswith(text):
            return ParsedAnswer("")
        reasoning, content = self._thought(text)
        if self._format:
            call = re.search(_CALL[self._format], content)
            content = content[: call.start() if call else len(content) - begun(content, self._tokens)]
        return ParsedAnswer(self._words(content), reasoning)

    def whole(self) -> ParsedAnswer:
        """The answer, now that it has ended. A call that cannot be read stays text, as the model wrote it."""
        if self._format:
            try:
                parsed = parse_tool_calls(self._text, self._template)
                return replace(parsed, content=self._words(parsed.content))
            except DataError:
                pass
        reasoning, content = self._thought(self._text)
        return ParsedAnswer(self._words(content), reasoning)

    def _thought(self, text: str) -> tuple[str | None, str]:
        """Thinking before the answer, and what follows."""
        if not self._thinks or not text.startswith("<think>"):
            return None, text
        inside, closed, content = text.removeprefix("<think>").partition("</think>")
        if not closed:
            inside = inside[: len(inside) - begun(inside, ["</think>"])]
        return inside.strip("\n") or None, content.lstrip("\n")

    def _words(self, content: str) -> str:
        """Without white space around it that may be the format's own: GLM begins an answer with a line break."""
        if self._format:
            return content.strip()
        return content.lstrip() if self._template.tool_calls else content
