"""What xtune knows of a model family: a frozen set of facts and small functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xtune.errors import UsageError
from xtune.families.layout import Fused, Rename
from xtune.recipe.schema import Model, RopeScaling

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

Config = dict[str, Any]
"""A config.json."""


@dataclass(frozen=True)
class Options:
    """What a config.json may fail to tell, or is to be changed in it; None stands for the rule that holds for all
    published models.

    family      name of the family, or "auto": the one that recognises config.json
    norm_head   Baichuan: the rows of the output layer are normalised
    position    Baichuan: rotary embeddings or ALiBi
    rope        InternLM: rotary embeddings as trained ("plain"), or stretched past the trained length
                ("dynamic"); ChatGLM: whether rope_ratio raises the base ("plain") or divides positions ("linear")
    rope_scaling  of transformers, for longer texts, in the place of that in config.json
    """

    family: str = "auto"
    norm_head: bool | None = None
    position: Literal["rope", "alibi"] | None = None
    rope: Literal["plain", "dynamic", "linear"] | None = None
    rope_scaling: RopeScaling | None = None

    @classmethod
    def of(cls, model: Model) -> Options:
        """Those of a recipe's `model` section."""
        return cls(**{field.name: getattr(model, field.name) for field in fields(cls)})

    def chosen(self) -> dict[str, Any]:
        """Those that are not left to xtune: what has to be remembered with a result."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.rope_scaling:
            values["rope_scaling"] = self.rope_scaling.model_dump(exclude_none=True)
        return {name: value for name, value in values.items() if value not in (None, "auto")}


@dataclass(frozen=True)
class Layout:
    """How a checkpoint in its publisher's layout becomes a model of transformers' own classes, and back.

    name           of the layout; models and tables are registered under it
    native_config  config of the native class
    model_class    the class, which may be one of ours; imports torch
    weights        the table of names: renamings, which are applied in order, and fused layers
    ignored        regexes of tensors in the files that the model makes itself
    stock          whether model_class computes what its class in transformers does, so that a checkpoint in
                   native layout needs no xtune; else what is different
    own_rope       why its rotary embeddings take no RoPE scaling; None: they are transformers', which do
    """

    name: str
    native_config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    weights: tuple[Rename | Fused, ...] = ()
    ignored: tuple[str, ...] = (r"rotary_emb\.inv_freq$",)
    stock: Literal[True] | str = True
    own_rope: str | None = None


@dataclass(frozen=True)
class Family:
    """Facts about a family of checkpoints.

    name            what `model.family` calls it
    title           the models that belong to it
    recognises      whether a config.json belongs to it
    template        name of the chat template that its instruct models were trained with, by what lies in the
                    directory; None where the checkpoint's own has to say
    layout          how to read the publisher's layout; None: it is transformers' own
    load_tokenizer  reads the publisher's tokenizer files; where it is None or returns that, transformers does
    refuses         why a checkpoint that looks like one of the family is none; None: it is one
    options         those of Options, besides family and rope_scaling, that it takes
    rope_scaling    the types of RoPE scaling that its publisher's code reads in config.json's `rope_scaling`
    lora_targets    the linear layers of attention, which `method.targets = "attention"` means
    spare_tokens    those to use where the publisher's tokenizer takes no new ones; None: it does
    """

    name: str
    title: str
    recognises: Callable[[Config], bool]
    template: Callable[[Config, Path], str | None]
    layout: Callable[[Config, Options], Layout] | None = None
    load_tokenizer: Callable[[Path], PreTrainedTokenizerFast | None] | None = None
    refuses: Callable[[Config], str | None] = lambda config: None
    options: tuple[str, ...] = ()
    rope_scaling: tuple[str, ...] = ()
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    spare_tokens: str | None = None


def no_stock_class(reason: str) -> UsageError:
    """For a model that is to be written in a layout that transformers lacks."""
    return UsageError(
        f"No class of transformers computes this model: {reason}.",
        where="transformers' layout",
        fix="Keep the publisher's, for programs that load it: xtune convert merge, or export --layout original.",
    )
