"""Loading what the user points at, ready to answer: base, adapter, tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtune.errors import UsageError
from xtune.families.tokenizer import load_tokenizer
from xtune.model.adapters import load_adapter
from xtune.model.load import load_model
from xtune.run.target import Target, check_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_chat(
    target: Target, *, bits: int | None = None, **loading: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """load_target of a model that answers.

    bits    4 or 8 to quantise the base's weights, 16 not to; None: as the adapter was trained (chat_bits)

    Raises UsageError for a reward model.
    """
    if target.reward:
        path = target.adapter or target.base
        raise UsageError(
            "This is a reward model: it scores answers, and writes none.",
            where=str(path),
            fix=f"In Python: xtune.load_reward_model({str(path)!r}).score([conversation, ...])",
        )
    return load_target(target, bits=chat_bits(target, bits), **loading)


def chat_bits(target: Target, bits: int | None = None) -> int | None:
    """To how many bits load_chat quantises the base's weights; None: it does not."""
    bits = target.bits if bits is None else bits
    return None if bits == 16 else bits


def load_target(target: Target, **loading: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model, with its adapter if there is one, and its tokenizer; `loading` are options of load_model.

    Raises UsageError where the base is not the one the adapter was trained on, or either cannot be loaded.
    """
    check_base(target)
    tokenizer = load_tokenizer(target.tokenizer_path, family=target.options.family)
    model = load_model(target.base, options=target.options, **loading)
    return (load_adapter(model, target.adapter) if target.adapter else model), tokenizer
