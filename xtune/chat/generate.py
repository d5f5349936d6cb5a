"""Answering: a conversation in, the answer's text out as it is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from threading import Event, Thread
from typing import TYPE_CHECKING

from xtune.data.encoding.encode import encode, vocabulary_of
from xtune.errors import UsageError
from xtune.messages import Message
from xtune.templates.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    messages: Sequence[Message],
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
) -> Iterator[str]:
    """The assistant's next turn, piece by piece, without its stop token.

    temperature 0 takes the likeliest token each time; above it samples. Closing the iterator early stops
    the model at its next token. Raises UsageError where the conversation fills the model's context.
    """
    import torch
    from transformers import StoppingCriteria, TextIteratorStreamer

    prompt = encode(messages, tokenizer=tokenizer, template=template, add_generation_prompt=True)
    room = context(model) - len(prompt)
    if room < 1:
        raise UsageError(
            f"The conversation is {len(prompt)} tokens long; the model reads at most {context(model)}.",
            fix="Ask less at once, or start over (/reset in a chat).",
        )
    ids = torch.from_numpy(prompt.input_ids.astype("int64"))[None].to(model.device)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    cancelled = Event()
    failure: list[BaseException] = []

    class Cancelled(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), cancelled.is_set(), device=input_ids.device)

    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def work() -> None:
        try:
            if device is not None:  # a thread begins with the first one, where ZeRO-3 would gather weights
                torch.cuda.set_device(device)
            with torch.inference_mode():
                model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=min(max_new_tokens, room),
                    do_sample=temperature > 0,
                    temperature=temperature or None,
                    top_p=None,
                    top_k=None,
                    eos_token_id=stop_ids(tokenizer, template),
                    pad_token_id=tokenizer.pad_token_id,
                    streamer=streamer,
                    stopping_criteria=[Cancelled()],
                )
        except BaseException as error:  # handed to the reader below
            failure.append(error)
            streamer.end()

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        for piece in streamer:
            yield piece.rstrip("\ufffd")  # the rest of a character that the last token left unfinished
    finally:
        cancelled.set()
        thread.join()
    if failure:
        raise failure[0]


def stop_ids(tokenizer: PreTrainedTokenizerFast, template: Template) -> list[int]:
    """Ids that end an answer: the template's stop tokens and the tokenizer's end of text."""
    vocabulary = vocabulary_of(tokenizer)
    ids = [vocabulary[token] for token in template.stop_tokens if token in vocabulary]
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(ids))


def context(model: PreTrainedModel) -> int:
    """Tokens that the model can attend to; boundless where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
