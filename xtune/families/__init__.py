"""The families xtune loads, in the order they are tried; and finding the one a directory belongs to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING

from xtune.errors import UsageError
from xtune.families import (
    baichuan,
    chatglm,
    chatglm_6b,
    internlm,
    internlm2,
    internlm3,
    llama,
    native,
    qwen,
    qwen2,
    smollm2,
)
from xtune.families.family import Family, Layout, Options
from xtune.families.reward import is_reward_config, refusal
from xtune.families.rope import scale_rope
from xtune.home import home
from xtune.json_file import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NAMED = "families.txt"

FAMILIES: tuple[Family, ...] = (
    internlm.FAMILY,
    internlm2.FAMILY,
    internlm3.FAMILY,
    qwen.FAMILY,
    qwen2.FAMILY,
    baichuan.FAMILY,
    chatglm_6b.FAMILY,
    chatglm.FAMILY,
    smollm2.FAMILY,
    llama.FAMILY,
    native.FAMILY,
)


def read_config(directory: Path) -> dict:
    """config.json of a model directory. Raises UsageError where there is none or it is not JSON."""
    path = directory / "config.json"
    if not path.is_file():
        holds = "is not a directory" if not directory.is_dir() else "has no config.json"
        raise UsageError(
            f"No model at {directory}: it {holds}.",
            where="model.path",
            fix=_instead(directory),
        )
    return read_json(path)


def _instead(directory: Path) -> str:
    """What to give in the place of a directory that is no model: perhaps a run or an adapter."""
    if (directory / "model" / "config.json").is_file():
        return f"Give the model that the run trained: {directory / 'model'}"
    if any((place / "adapter_config.json").is_file() for place in (directory, directory / "adapter")):
        return f"It holds an adapter. Merge it, and give OUT: xtune convert merge {directory} OUT"
    return 'Give a directory with config.json and *.safetensors, or the embedded model "smollm2".'


def find_family(directory: Path, name: str = "auto") -> Family:
    """The family of a model directory: the one named, the one in the .py file named (as FAMILY), or the first
    that recognises its config.json. Raises UsageError."""
    if name.endswith(".py"):
        return _from_file(Path(name).expanduser())
    if name != "auto":
        for family in FAMILIES:
            if family.name == name:
                return family
        raise UsageError(
            f"There is no model family {name!r}.",
            where="model.family",
            fix="Use auto or one of: " + ", ".join(family.name for family in FAMILIES),
        )
    config = read_config(directory)
    for family in FAMILIES:
        if family.recognises(config):
            if reason := family.refuses(config) or refusal(config):
                raise UsageError(
                    f"This checkpoint cannot be loaded: {reason}.",
                    where=str(directory / "config.json"),
                    fix=f"Of this family xtune knows {family.title}.",
                )
            return family
    raise UsageError(
        f"No family recognises this checkpoint (model_type {config.get('model_type')!r}, with remote code).",
        where=str(directory / "config.json"),
        fix="Known families: " + ", ".join(family.name for family in FAMILIES),
    )


@cache
def _from_file(path: Path) -> Family:
    try:
        module = run_path(str(path))
    except Exception as error:
        raise UsageError(
            f"The family cannot be read: {type(error).__name__}: {error}",
            where=str(path),
            fix="Correct the file.",
        ) from error
    if not isinstance(module.get("FAMILY"), Family):
        raise UsageError(
            "The file defines no FAMILY.",
            where=str(path),
            fix="See examples/your_own_family in xtune's repository.",
        )
    _remember(path)
    return module["FAMILY"]


def was_named(file: str) -> bool:
    """Whether a family's .py file was named by a recipe or a command here before. The note beside an adapter or a model
    names one too; that alone lets nothing run."""
    known = home() / _NAMED
    return known.is_file() and str(_whole(file)) in known.read_text(encoding="utf-8").splitlines()


def _remember(file: Path) -> None:
    if not was_named(str(file)):
        with suppress(OSError):  # a home that is read-only
            home().mkdir(parents=True, exist_ok=True)
            with open(home() / _NAMED, "a", encoding="utf-8") as known:
                known.write(f"{_whole(file)}\n")


def _whole(file: str | Path) -> Path:
    return Path(file).expanduser().resolve()


def read_layout(directory: Path, options: Options) -> Layout | None:
    """How to read the weights of a model directory; None where they are in transformers' own layout.

    Raises UsageError for options that its family does not take, and a config.json that lacks what it needs.
    """
    family = find_family(directory, options.family)
    for name in options.chosen():
        if name not in ("family", "rope_scaling", *family.options):
            raise UsageError(
                f"model.{name} means nothing to the family {family.name}.",
                where=f"model.{name}",
                fix="Leave it out." if not family.options else f"It takes {', '.join(family.options)}.",
            )
    config = read_config(directory)
    if family.layout is None:
        return None
    try:
        layout = family.layout(config, options)
    except KeyError as error:
        raise UsageError(
            f"config.json has no {error.args[0]}, without which a {family.name} model cannot be built.",
            where=str(directory / "config.json"),
            fix="Copy the file again.",
        ) from None
    if is_reward_config(config):
        from xtune.families.reward_model import reward_class

        layout.native_config.tie_word_embeddings = False
        layout = replace(layout, model_class=reward_class(layout.model_class))
    if options.rope_scaling:
        scale_rope(layout.native_config, options.rope_scaling, layout.own_rope)
    return layout


def read_native_config(directory: Path, options: Options) -> PreTrainedConfig:
    """config.json in transformers' own layout, as read_layout has None for, with the RoPE scaling of `options`."""
    from transformers import AutoConfig

    # Without a way to attend: config.json may name one that is downloaded, and is a program.
    config = AutoConfig.from_pretrained(
        directory,
        local_files_only=True,
        trust_remote_code=False,
        attn_implementation=None,
        experts_implementation=None,
    )
    if hasattr(config, "auto_map"):  # the publisher's own classes, which transformers would ask to run
        del config.auto_map
    if options.rope_scaling:
        scale_rope(config, options.rope_scaling)
    return config
