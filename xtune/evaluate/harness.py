"""A loaded model as lm-evaluation-harness asks it: how likely continuations are, and what it writes.

Prompts that the harness puts into the chat template are rendered and encoded as for training, so that the model reads
what it was trained on. Imports lm_eval: the extra `eval`.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.models.utils_hf import stop_sequences_criteria
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from xtune.chat.generate import context, stop_ids
from xtune.data.batches.collate import collate
from xtune.data.encoding.encode import NO_LABEL, Encoded, Encoder
from xtune.data.encoding.pieces import Piece
from xtune.errors import DataError
from xtune.evaluate.losses import in_batches, text_losses
from xtune.evaluate.models import Subject
from xtune.evaluate.own_data import LONGEST
from xtune.messages import Message
from xtune.templates.render import Rendered, render
from xtune.terminal import Advance, progress

_LOGITS = 1 << 26
"""Most logits of a forward pass: 256 MiB."""
_ANSWER = 256
"""Most tokens that are written where a task does not say, as the harness has it."""


class HarnessModel(TemplateLM):
    """What the harness calls. Figures equal those of its own class for Hugging Face models."""

    def __init__(self, subject: Subject):
        super().__init__()
        self.model, self.tokenizer, self.template = subject.model, subject.tokenizer, subject.target.template
        self._device = self.model.device
        known = context(self.model)
        self.max_length = known if known < sys.maxsize else LONGEST
        self.encoder = Encoder.of(self.tokenizer, self.template)
        self.rendered: dict[str, Rendered] = {}
        self.stderr = sys.stderr  # which is kept from the harness

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    @property
    def tokenizer_name(self) -> str:
        """Names the chat template too, in the harness's cache of requests."""
        template = hashlib.sha256(self.template.standalone.encode()).hexdigest()[:8]
        return f"{self.tokenizer.name_or_path.replace('/', '__')}-{self.template.name}-{template}"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a prompt; its tokens are found by it later. Without add_generation_prompt the last message is
        the beginning of the answer."""
        messages = [Message(turn["role"], turn["content"]) for turn in chat_history]
        begun = "" if add_generation_prompt else messages.pop().content
        try:
            rendered = render(messages, template=self.template, add_generation_prompt=True)
        except DataError:  # many formats have no place for a system prompt
            rendered = render(_without_system(messages), template=self.template, add_generation_prompt=True)
        end = len(rendered.text)
        rendered = replace(rendered, text=rendered.text + begun, loss_spans=[(end, end + len(begun))])
        self.rendered[rendered.text] = rendered
        return rendered.text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if string in self.rendered:
            return self._encode_rendered(self.rendered[string])
        if add_special_tokens is None:
            first = self.tokenizer.decode([self.prefix_token_id])
            add_special_tokens = not (first and string.startswith(first))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _encode_rendered(self, rendered: Rendered) -> list[int]:
        return self.encoder.encode_pieces([self.encoder.cut(rendered)])[0].input_ids.tolist()

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """White space at the end of the prompt counts as part of the continuation, as it does in the harness."""
        rendered = self.rendered.get(context)
        if rendered is None:
            return super()._encode_pair(context, continuation)
        (answer,) = self.encoder.encode_pieces([[Piece(continuation, True, True)]])
        ids = self._encode_rendered(rendered)
        before = self._encode_rendered(_stripped(rendered))
        end = len(before) if before == ids[: len(before)] else len(ids)
        return ids[:end], ids[end:] + answer.input_ids.tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """log p of each continuation, and whether it is the likeliest token by token. Requests that differ in their
        last token only go through the model once; prompts that are too long lose their beginning."""
        asked: dict[tuple[int, ...], list[int]] = {}
        for number, (_, prompt, answer) in enumerate(requests):
            asked.setdefault(tuple((prompt + answer)[-self.max_length - 1 : -1]), []).append(number)
        inputs = list(asked)
        widths = [max(len(requests[number][2]) for number in numbers) for numbers in asked.values()]
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with torch.no_grad(), self._progress(len(requests)) as advance:
            for places in self._passes(inputs, widths):
                rows = [np.array(inputs[place], np.int32) for place in places]
                start = max(0, min(len(inputs[place]) - widths[place] for place in places))
                logits = self._logits(rows, start)
                for row, place in enumerate(places):
                    end = len(inputs[place]) - start
                    for number in asked[inputs[place]]:
                        answer = torch.tensor(requests[number][2][-end:], device=logits.device)
                        log_probs = logits[row, end - len(answer) : end].float().log_softmax(-1)
                        likely = log_probs.gather(1, answer[:, None]).sum()
                        results[number] = float(likely), bool((log_probs.argmax(-1) == answer).all())
                    advance(len(asked[inputs[place]]))
        return results

    def _passes(self, inputs: Sequence[Sequence[int]], widths: Sequence[int]) -> list[list[int]]:
        """The numbers of inputs that go through the model together."""
        parts: list[list[int]] = []
        for batch in in_batches([len(one) for one in inputs], self.model):
            room = _LOGITS // len(self.tokenizer)
            start = math.inf
            for number, place in enumerate(batch):
                start = min(start, len(inputs[place]) - widths[place])
                if number == 0 or (len(parts[-1]) + 1) * (len(inputs[parts[-1][0]]) - start) > room:
                    parts.append([])
                    start = len(inputs[place]) - widths[place]
                parts[-1].append(place)
        return parts

    def _logits(self, rows: Sequence[np.ndarray], start: int) -> torch.Tensor:
        """[rows, columns from `start`, outputs]."""
        batch = collate(
            [Encoded(row, row) for row in rows], packing=False, pad_id=self.tokenizer.pad_token_id
        )
        del batch["labels"]
        batch["logits_to_keep"] = torch.arange(start, batch["input_ids"].shape[1])
        batch = {name: value.to(self.device) for name, value in batch.items()}
        return self.model(**batch, use_cache=False).logits

    @contextmanager
    def _progress(self, questions: int) -> Iterator[Advance]:
        with redirect_stderr(self.stderr), progress("answering", questions, "questions") as advance:
            yield advance

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """log p of whole texts, in windows as long as the model's context."""
        texts, of = [], []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length - 1, context_len=1
            )
            for before, after in map(make_disjoint_window, windows):
                labels = np.array([NO_LABEL] * len(before) + after, np.int32)
                texts.append(Encoded(np.array(before + after, np.int32), labels))
                of.append(number)
        with redirect_stderr(self.stderr):
            losses = text_losses(self.model, texts, self.tokenizer.pad_token_id)
        return np.bincount(of, -losses, len(requests)).tolist()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """What the model writes to each prompt, up to what the task says ends an answer."""
        answers = [""] * len(requests)
        with torch.no_grad(), self._progress(len(requests)) as advance:
            for options in {repr(request.args[1]): request.args[1] for request in requests}.values():
                mine = [number for number, request in enumerate(requests) if request.args[1] == options]
                prompts = [self.tok_encode(requests[number].args[0]) for number in mine]
                options = normalize_gen_kwargs(options, _ANSWER)
                most = min(options.pop("max_gen_toks"), self.max_length // 2)
                prompts = [prompt[most - self.max_length :] for prompt in prompts]
                for places in in_batches([len(prompt) + most for prompt in prompts], self.model):
                    written = self._write([prompts[place] for place in places], most, dict(options))
                    for place, text in zip(places, written, strict=True):
                        answers[mine[place]] = text
                    advance(len(places))
        return answers

    def _write(self, prompts: Sequence[list[int]], most: int, options: dict[str, Any]) -> list[str]:
        width, pad_id = max(map(len, prompts)), self.tokenizer.pad_token_id
        ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        until = handle_stop_sequences(options.pop("until", None), eos=self.tokenizer.eos_token)
        if not options.get("do_sample"):
            options |= {"temperature": None, "top_p": None, "top_k": None}
        written = self.model.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=most,
            eos_token_id=stop_ids(self.tokenizer, self.template),
            pad_token_id=pad_id,
            stopping_criteria=stop_sequences_criteria(self.tokenizer, until, width, len(prompts)),
            **options,
        )
        texts = self.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
        return [postprocess_generated_text(text, until, None) for text in texts]


def _stripped(rendered: Rendered) -> Rendered:
    """Without white space at its end."""
    text = rendered.text.rstrip()
    return replace(
        rendered, text=text, loss_spans=[span for span in rendered.loss_spans if span[1] <= len(text)]
    )


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The system prompt in front of the first question."""
    if len(messages) < 2 or messages[0].role != "system":
        return list(messages)
    system, first, *others = messages
    return [replace(first, content=f"{system.content}\n\n{first.content}"), *others]
