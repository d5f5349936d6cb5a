"""Which weights a recipe trains, and what all of them take, of a model that is not loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from xtune.families import find_family
from xtune.families.embedded import model_directory
from xtune.recipe.schema import Full, Qlora, Recipe
from xtune.training.estimate.architecture import Architecture

Role = Literal["trained", "adapted", "frozen"]


@dataclass(frozen=True)
class Weights:
    """Numbers of weights.

    all        of the model that trains, adapters left out
    quantised  of them, those that are kept in few bits
    trained    of the model or of what is put beside it
    adapters   of them, those beside it
    """

    all: int
    quantised: int
    trained: int
    adapters: int


def roles(recipe: Recipe, of: Architecture) -> dict[str, Role]:
    """Of each linear layer by its whole name; the output layer's is "lm_head"."""
    method = recipe.method
    names = [*of.linear, *(["lm_head"] if of.output else [])]
    if isinstance(method, Full):
        return dict.fromkeys(names, "trained")
    targets = method.targets
    if targets == "attention":
        family = find_family(model_directory(recipe.model.path), recipe.model.family)
        targets = list(family.lora_targets)

    def is_meant(name: str) -> bool:
        number = re.search(r"\.(\d+)\.", name)
        if method.layers is not None and (number is None or int(number[1]) not in method.layers):
            return False
        if targets == "all-linear":
            return name in of.linear
        if isinstance(targets, str):
            return re.fullmatch(targets, name) is not None
        return any(f".{name}".endswith(f".{target}") for target in targets)

    return {name: "adapted" if is_meant(name) else "frozen" for name in names}


def weights(recipe: Recipe, of: Architecture, by_role: Mapping[str, Role]) -> Weights:
    """Of a recipe. Rows of added tokens, and a reward model's head, are counted with the adapters."""
    method, everything = recipe.method, of.parameters
    if recipe.train.objective.kind == "reward" and "lm_head.weight" in of.shapes:
        everything -= prod(of.shapes["lm_head.weight"])
    head = of.hidden if recipe.train.objective.kind == "reward" else 0
    if isinstance(method, Full):
        return Weights(everything + head, 0, everything + head, 0)
    shapes = {**of.linear, **({"lm_head": of.output} if of.output else {})}
    beside = sum(
        method.rank * sum(shapes[name]) + (shapes[name][0] if method.dora else 0)
        for name, role in by_role.items()
        if role == "adapted"
    )
    beside += head + len(recipe.model.added_tokens) * of.hidden * (1 if of.tied else 2)
    quantised = of.linear_parameters if isinstance(method, Qlora) else 0
    return Weights(everything, quantised, beside, beside)
