"""One answer to a request, between the engine's thread, which writes it, and the event loop, which sends it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import numpy as np

from xtune.serve.answer import Answer
from xtune.serve.engine import Job
from xtune.serve.models import Served
from xtune.serve.request import ChatRequest
from xtune.serve.sampling import Sampling
from xtune.templates.tool_calls import ParsedAnswer


class Choice:
    """An answer that is being written; `job` is what the engine is given. To be made in the event loop."""

    def __init__(self, model: Served, asked: ChatRequest, prompt: np.ndarray, sampling: Sampling):
        self._answer = Answer(model.tokenizer, model.template, asked.stop or (), bool(asked.shown_tools))
        self._streams = bool(asked.stream)
        self._loop = asyncio.get_running_loop()
        self._states: asyncio.Queue = asyncio.Queue()
        self.job = Job(prompt, sampling, model.stop_ids, self._take, self._end, model.adapter)

    def cancel(self) -> None:
        """Let the engine stop writing."""
        self.job.cancelled = True

    async def whole(self) -> tuple[ParsedAnswer, str]:
        """The answer and OpenAI's finish_reason. Raises what went wrong in the engine."""
        while True:
            answer, end = await self._states.get()
            if isinstance(end, Exception):
                raise end
            if end is not None:
                return answer, "tool_calls" if answer.calls else end

    async def pieces(self) -> AsyncIterator[tuple[dict[str, Any], str | None]]:
        """OpenAI's deltas: first the role, then text as it gets certain, at last with finish_reason."""
        yield {"role": "assistant", "content": ""}, None
        sent = {"reasoning_content": 0, "content": 0}
        while True:
            answer, end = await self._states.get()
            if isinstance(end, Exception):
                raise end
            texts = {"reasoning_content": answer.reasoning or "", "content": answer.content}
            for name, text in texts.items():
                if piece := text[sent[name] :]:
                    sent[name] = len(text)
                    yield {name: piece}, None
            if end is not None:
                if answer.calls:
                    calls = [{"index": index, **call} for index, call in enumerate(self.calls(answer))]
                    yield {"tool_calls": calls}, None
                yield {}, "tool_calls" if answer.calls else end
                return

    @staticmethod
    def calls(answer: ParsedAnswer) -> list[dict[str, Any]]:
        """The calls of an answer in OpenAI's form."""
        return [
            {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {
                    "name": call["name"],
                    "arguments": json.dumps(call["arguments"], ensure_ascii=False),
                },
            }
            for call in answer.calls
        ]

    def _take(self, token: int) -> bool:
        ended = self._answer.take(token)
        if self._streams and not ended:
            self._tell(self._answer.so_far(), None)
        return ended

    def _end(self, end: str | Exception) -> None:
        self._tell(self._answer.whole(), end)

    def _tell(self, answer: ParsedAnswer, end: str | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._states.put_nowait, (answer, end))
