"""A chat template: its Jinja source and what the source alone does not tell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.messages import ROLES
from xtune.templates.catalog import ALIASES, TEMPLATES


@dataclass(frozen=True)
class Template:
    """One chat format.

    name            what a recipe calls it, or the file it came from
    source          Jinja, with {% generation %} around what the model must learn to write
    control_tokens  tokens that only the template may write; in what people say they stay plain text
    stop_tokens     tokens that end an assistant turn
    optional_tokens control tokens where the tokenizer has them; without them plain text, as published
    labels          what is learnt in place of a token: {"<reserved_106>": "</s>"} where the stop token is the
                    label at the next role token and never stands in the text
    variables       what the format may be given besides messages and tools, with the defaults
    tool_calls      how calls are written, by the name of a parser in tool_calls.py; None: the format has none
    one_turn        whether a conversation is trained one turn a sample, because later turns change how earlier
                    ones are shown
    """

    name: str
    source: str
    control_tokens: tuple[str, ...]
    stop_tokens: tuple[str, ...]
    optional_tokens: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    tool_calls: str | None = None
    one_turn: bool = False

    @property
    def guarded_tokens(self) -> tuple[str, ...]:
        """All tokens that people cannot write."""
        return self.control_tokens + self.optional_tokens

    @property
    def standalone(self) -> str:
        """The source with its variables' values in it, for renderers that are not given any."""
        lines = ""
        for name, value in self.variables.items():
            literal = "none" if value is None else json.dumps(value, ensure_ascii=False)
            lines += f"{{% set {name} = {name} if {name} is defined else {literal} %}}\n"
        return lines + self.source


def template_names() -> list[str]:
    """The formats shipped with xtune."""
    return sorted(TEMPLATES)


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
    shipped = ALIASES.get(name, name)
    if shipped not in TEMPLATES:
        near = get_close_matches(name, [*TEMPLATES, *ALIASES], n=1)
        raise UsageError(
            f"There is no chat template {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
            where="model.template",
            fix=f"Use one of {', '.join(template_names())}, or a path to a .jinja file.",
        )
    source = (Path(__file__).parent / f"{shipped}.jinja").read_text(encoding="utf-8")
    return Template(shipped, source, **TEMPLATES[shipped])


def with_variables(template: Template, variables: Mapping[str, Any]) -> Template:
    """The template with other values for its variables. Raises UsageError for one that it does not have."""
    unknown = [name for name in variables if name not in template.variables]
    if unknown and template.name in TEMPLATES:  # of one from outside nobody knows what it reads
        known = ", ".join(template.variables) or "none"
        raise UsageError(
            f"The chat template {template.name} has no variable {', '.join(unknown)}.",
            where="model.template_variables",
            fix=f"Its variables: {known}.",
        )
    return replace(template, variables={**template.variables, **variables})


def with_added_tokens(template: Template, tokens: Iterable[str]) -> Template:
    """A template from outside that may write tokens which a recipe adds: those are its control tokens, and what ends
    an answer with one stops at it."""
    if template.name in TEMPLATES:
        return template
    written = [token for token in tokens if token in template.source and token not in template.guarded_tokens]
    blocks = _GENERATION.findall(template.source)
    ends = [token for token in written if any(block.rstrip(" \n'\"}-").endswith(token) for block in blocks)]
    return replace(
        template,
        control_tokens=(*template.control_tokens, *written),
        stop_tokens=(*template.stop_tokens, *ends),
    )


# What is likely a control token; whether it is one, the tokenizer tells.
_CONTROL = re.compile(
    r"<\|[^|<>{}\s'\"]+\|>|<｜[^｜<>\s]+｜>|</?s>|<(?:bos|eos|pad|unk|sop|eop|eoh|eoa)>|<[a-z]+_of_[a-z]+>"
    r"|\[[gs]?MASK\]|\[/?[A-Z][A-Z_]+\]"
)
_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}(.*?){%-?\s*endgeneration\s*-?%}", re.S)
_BY_ROLE = tuple(f"<|{role}|>" for role in (*ROLES, "observation"))


def template_from_source(name: str, source: str, tokens: Mapping[str, str] | None = None) -> Template:
    """A template from outside (a user's file, a checkpoint's own): its control tokens are read off the source.

    tokens   those that it knows by the name of a variable: {"bos_token": "<s>", "eos_token": "</s>"}
    """
    tokens = dict(tokens or {})
    named = dict.fromkeys([*_CONTROL.findall(source), *tokens.values()])
    if re.search(r"<\|['\"{]", source):  # "<|" + message["role"] + "|>"
        named |= dict.fromkeys(_BY_ROLE)
    learnt = "".join(_GENERATION.findall(source))
    # Only stop tokens must be known to the tokenizer: `<|user|>` is a token of Phi-3, but not of Zephyr.
    by_variable = {token for variable, token in tokens.items() if variable in learnt}
    stops = tuple(token for token in named if token in learnt or token in by_variable)
    others = tuple(token for token in named if token not in stops)
    return Template(name, source, stops, stops, optional_tokens=others, variables=tokens)
