"""A tokenizer to which nothing that people type is a control token."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_PLAIN: WeakKeyDictionary[Any, tuple[Tokenizer, Tokenizer]] = WeakKeyDictionary()

# Gemma and Yi have tokens of their own for these; they steer nothing, and are read as in pre-training.
_HTML = re.compile(
    r"</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|p|ul|ol|li|dl|dt|dd|br|hr|div|span|img|a"
    r"|b|i|u|em|strong|sub|sup|code|pre)>"
)


def plain_tokenizer(tokenizer: PreTrainedTokenizerFast, *, continues: bool = False) -> Tokenizer:
    """The same tokenizer without its added tokens: to it, `<|im_end|>` is ten ordinary characters.

    continues   for text that goes on from other text: without the space that sentencepiece models put first
    """
    if tokenizer not in _PLAIN:
        first = _without_added(tokenizer.backend_tokenizer)
        steps = _steps(first)
        without = _without_prefix(steps)
        same = without == steps  # as in all byte-level tokenizers
        _PLAIN[tokenizer] = first, first if same else _with_steps(first, without)
    return _PLAIN[tokenizer][continues]


def _without_added(backend: Tokenizer) -> Tokenizer:
    from tokenizers import Tokenizer

    kept = any(_HTML.fullmatch(token.content) for token in backend.get_added_tokens_decoder().values())
    if kept or getattr(backend.model, "ignore_merges", False):
        return Tokenizer.from_str(json.dumps(_without_control(json.loads(backend.to_str()))))
    plain = Tokenizer(backend.model)  # takes no time, unlike the way through JSON
    for step in ("normalizer", "pre_tokenizer", "decoder"):
        if (value := getattr(backend, step)) is not None:
            setattr(plain, step, value)
    return plain


def _steps(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer does before its model, as JSON."""
    from tokenizers import Tokenizer, models

    empty = Tokenizer(models.BPE())
    for step in ("normalizer", "pre_tokenizer"):
        if (value := getattr(tokenizer, step)) is not None:
            setattr(empty, step, value)
    return json.loads(empty.to_str())


def _with_steps(tokenizer: Tokenizer, steps: dict[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer

    changed, other = Tokenizer.from_str(tokenizer.to_str()), Tokenizer.from_str(json.dumps(steps))
    changed.normalizer, changed.pre_tokenizer = other.normalizer, other.pre_tokenizer
    return changed


def _without_control(description: dict[str, Any]) -> dict[str, Any]:
    added = description["added_tokens"]
    description.update(
        added_tokens=[token for token in added if _HTML.fullmatch(token["content"])],
        post_processor=None,
        truncation=None,
        padding=None,
    )
    model = description["model"]
    if model["type"] == "BPE" and model.get("ignore_merges"):
        # Such a model takes any text that stands whole in its vocabulary, control tokens too; they go out, where
        # no merges lead to them.
        names = {token["content"] for token in added}
        merged = {"".join(pair) for pair in model["merges"]}
        model["vocab"] = {
            text: index
            for text, index in model["vocab"].items()
            if text not in names or text in merged or len(text) == 1
        }
    return description


def _without_prefix(step: Any) -> Any:
    """A tokenizer's description in which no step puts a space in front of the text."""
    if isinstance(step, list):
        return [_without_prefix(part) for part in step if not _prepends(part)]
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Metaspace":
        return {**step, "prepend_scheme": "never"}
    if step.get("type") == "ByteLevel":
        return {**step, "add_prefix_space": False}
    parts = ("normalizer", "pre_tokenizer", "normalizers", "pretokenizers")
    changed = {
        key: None if _prepends(step[key]) else _without_prefix(step[key]) for key in parts if key in step
    }
    return {**step, **changed}


def _prepends(step: Any) -> bool:
    return isinstance(step, dict) and step.get("type") == "Prepend"
