"""Loading a tokenizer, and which chat template a model is to be used with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xtune.errors import UsageError
from xtune.families import find_family, read_config
from xtune.families.embedded import model_directory
from xtune.templates.template import Template, find_template, template_from_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model or adapter directory, or an embedded model. Raises UsageError where there is none."""
    from transformers import AutoTokenizer

    directory = model_directory(str(path))
    if not (directory / "tokenizer_config.json").is_file():  # all that an adapter's directory has
        read_config(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The tokenizer cannot be loaded: {str(error).splitlines()[0]}",
            where=str(directory),
            fix="Copy the model's tokenizer files into the directory.",
        ) from None
    if tokenizer.pad_token_id is None:  # padding is masked everywhere: any token does
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def choose_template(name: str, directory: Path, family: str = "auto") -> Template:
    """The chat template that `model.template` names; for "auto" the family's, else the checkpoint's own.

    Raises UsageError where the checkpoint's own does not say what is learnt ({% generation %}).
    """
    if name != "auto":
        return find_template(name)
    known = find_family(directory, family).template
    if known:
        return find_template(known)
    own = _own_source(directory)
    if own and "generation" in own and "endgeneration" in own:
        return template_from_source("the checkpoint's own", own)
    problem = "has no {% generation %} block, so what to learn is unknown" if own else "is missing"
    raise UsageError(
        f"The checkpoint's own chat template {problem}.",
        where=f"{directory} (model.template)",
        fix='Name a template in the recipe: model.template = "chatml", or a path to a .jinja file.',
    )


def _own_source(directory: Path) -> str | None:
    import json

    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = directory / "tokenizer_config.json"
    template = (
        json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else None
    )
    return template if isinstance(template, str) else None
