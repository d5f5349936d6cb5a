"""A chat template: its Jinja source and what the source alone does not tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from xtune.errors import UsageError

# The third of xtune's lists: every format, with the tokens that steer the model and those that end a turn.
_CONTROL_TOKENS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "chatml": (("<|im_start|>", "<|im_end|>"), ("<|im_end|>",)),
    "smollm2": (("<|im_start|>", "<|im_end|>"), ("<|im_end|>",)),
}


@dataclass(frozen=True)
class Template:
    """One chat format.

    name            what a recipe calls it, or the file it came from
    source          Jinja, with {% generation %} around what the model must learn to write
    control_tokens  tokens that only the template may write; in what people say they stay plain text
    stop_tokens     tokens that end an assistant turn
    """

    name: str
    source: str
    control_tokens: tuple[str, ...]
    stop_tokens: tuple[str, ...]


def template_names() -> list[str]:
    """The formats shipped with xtune."""
    return sorted(_CONTROL_TOKENS)


@cache
def find_template(name: str) -> Template:
    """The template of that name, or of that path if it ends in `.jinja`. Raises UsageError."""
    if name.endswith(".jinja"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(
                f"There is no template file {name}.", where="model.template", fix="Check the path."
            )
        return template_from_source(name, path.read_text(encoding="utf-8"))
    if name not in _CONTROL_TOKENS:
        near = get_close_matches(name, _CONTROL_TOKENS, n=1)
        raise UsageError(
            f"There is no chat template {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
            where="model.template",
            fix=f"Use one of {', '.join(template_names())}, or a path to a .jinja file.",
        )
    source = (Path(__file__).parent / f"{name}.jinja").read_text(encoding="utf-8")
    return Template(name, source, *_CONTROL_TOKENS[name])


def template_from_source(name: str, source: str) -> Template:
    """A template from outside (a user's file, a checkpoint's own): its control tokens are read off the source."""
    control = tuple(dict.fromkeys(re.findall(r"<\|[^|<>\s]+\|>|</?s>", source)))
    learnt = re.findall(r"{%-?\s*generation\s*-?%}(.*?){%-?\s*endgeneration\s*-?%}", source, re.S)
    stops = tuple(token for token in control if any(token in block for block in learnt))
    return Template(name, source, control, stops)
