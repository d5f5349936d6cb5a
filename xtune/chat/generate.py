"""Answering: a conversation in, the answer's text out as it is written."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from xtune.data.encoding.encode import encode, vocabulary_of
from xtune.errors import UsageError
from xtune.messages import Message
from xtune.templates.template import Template
from xtune.templates.tool_calls import STOP_STRINGS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop_words: Sequence[str] = (),
    written: list[int] | None = None,
) -> Generator[str, None, str]:
    """The assistant's next turn, piece by piece, without its stop token; returns what ended it, "stop" or "length".

    tools         in OpenAI's form, as the template gets them; with them, the text has the control tokens of calls
    temperature   0 takes the likeliest token each time, as does anything below 0.001, by which logits cannot be
                  divided; above it samples, among the likeliest tokens whose probabilities add up to `top_p`
                  (Holtzman et al. 2020)
    seed          of sampling; None: what torch's generator comes to
    stop_words    end the answer before them
    written       gets the id of each token as it is written, stop token included

    Closing it early stops the model at its next token. Raises UsageError where the conversation fills the model's
    context.
    """
    import torch
    from transformers import StoppingCriteria, TextIteratorStreamer

    prompt = encode(
        messages, tokenizer=tokenizer, template=template, tools=tools or None, add_generation_prompt=True
    )
    room = room_for_answer(model, len(prompt))
    ids = torch.from_numpy(prompt.input_ids.astype("int64"))[None].to(model.device)
    written = [] if written is None else written
    sampled = temperature >= 1e-3
    if tools:
        stop_words = [*stop_words, *STOP_STRINGS.get(template.tool_calls or "", ())]
    stops = stop_ids(tokenizer, template)
    cancelled = Event()
    failure: list[BaseException] = []

    class Streamer(TextIteratorStreamer):
        def put(self, value):
            if not self.next_tokens_are_prompt:
                written.append(int(value))
                if written[-1] in stops:
                    return
            super().put(value)

    class Cancelled(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), cancelled.is_set(), device=input_ids.device)

    streamer = Streamer(tokenizer, skip_prompt=True, skip_special_tokens=not tools)
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def work() -> None:
        try:
            if device is not None:  # a thread begins with the first one, where ZeRO-3 would gather weights
                torch.cuda.set_device(device)
            if seed is not None:
                torch.manual_seed(seed)
            with torch.inference_mode():
                model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=min(max_new_tokens, room),
                    do_sample=sampled,
                    temperature=temperature if sampled else None,
                    top_p=top_p if sampled and top_p < 1 else None,
                    top_k=None,
                    eos_token_id=stops,
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
        # of the last piece: what is left of a character that its last token left unfinished
        pieces = (piece.rstrip("\ufffd") for piece in streamer)
        found = yield from _until(stop_words, pieces)
    finally:
        cancelled.set()
        thread.join()
    if failure:
        raise failure[0]
    return "stop" if found or (written and written[-1] in stops) else "length"


def _until(words: Sequence[str], pieces: Iterable[str]) -> Generator[str, None, bool]:
    """The pieces up to the first of the words; returns whether there was one. What may begin one is kept back."""
    text, sent = "", 0
    for piece in pieces:
        text += piece
        found = [place for word in words if (place := text.find(word)) >= 0]
        end = min(found) if found else len(text) - begun(text, words)
        if end > sent:
            yield text[sent:end]
            sent = end
        if found:
            return True
    if text[sent:]:
        yield text[sent:]
    return False


def begun(text: str, words: Iterable[str]) -> int:
    """How many characters at the end of a text may be the beginning of one of the words."""
    return max(
        (length for word in words for length in range(1, len(word)) if text.endswith(word[:length])),
        default=0,
    )


def stop_ids(tokenizer: PreTrainedTokenizerFast, template: Template) -> list[int]:
    """Ids that end an answer: the template's stop tokens and the tokenizer's end of text."""
    vocabulary = vocabulary_of(tokenizer)
    ids = [vocabulary[token] for token in template.stop_tokens if token in vocabulary]
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(ids))


def room_for_answer(model: PreTrainedModel, prompt: int) -> int:
    """Tokens that an answer may have after so many. Raises UsageError where there is no room for one."""
    if prompt < context(model):
        return context(model) - prompt
    raise UsageError(
        f"The conversation is {prompt} tokens long; the model reads at most {context(model)}.",
        fix="Ask less at once; in a chat, /undo takes the last turn back and /reset starts over.",
    )


def context(model: PreTrainedModel) -> int:
    """Tokens that the model can attend to; boundless where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
