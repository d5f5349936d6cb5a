"""What a recipe may say of its method: which weights are trained, and how."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from xtune.recipe.section import Section, conflict


class Full(Section):
    kind: Literal["full"]
    """Train all weights, in float32."""


class Lora(Section):
    kind: Literal["lora"]
    """Train low-rank adapters beside frozen weights (Hu et al. 2021)."""
    rank: int = Field(16, ge=1)
    """Rank r of the two factors."""
    alpha: float = Field(32, gt=0)
    """Adapters are scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' input."""
    targets: str | list[str] = "all-linear"
    """Linear layers that get an adapter: "all-linear" (all but the output layer), "attention", their names, or a regex
    that their whole names match."""
    layers: list[int] | None = Field(None, min_length=1)
    """Numbers of the layers that get adapters, from 0. None: all."""
    rslora: bool = False
    """Scale by alpha / √rank, for high ranks (Kalajdzievski 2023)."""
    dora: bool = False
    """Train the length of each row of the weights apart from its direction (Liu et al. 2024)."""
    init: Literal["default", "gaussian", "pissa", "olora", "loftq"] = "default"
    """Factors at the start: "default" (uniform A, B is 0), "gaussian" A, what "pissa" (SVD) or "olora" (QR) take out of
    the weights, or, of qlora, "loftq": what quantisation to 4 bits has lost of them."""
    lora_plus: float | None = Field(None, gt=0)
    """Learning rate of B, in multiples of train.lr, which is A's (LoRA+, Hayou et al. 2024). None: the same."""

    @model_validator(mode="after")
    def _lost_by_quantisation(self):
        if self.init == "loftq" and getattr(self, "bits", None) != 4:
            raise conflict('"loftq" makes good what 4 bits lose; use qlora with bits = 4', "init")
        if self.init == "loftq" and self.dora:
            raise conflict(
                'dora begins as the quantised weights are; use another init than "loftq"', "dora", "init"
            )
        return self

    @model_validator(mode="after")
    def _targets_and_layers(self):
        if isinstance(self.targets, str) and self.targets not in ("all-linear", "attention"):
            try:
                re.compile(self.targets)
            except re.error as error:
                raise conflict(f"{self.targets!r} is no valid regex: {error}", "targets") from None
            if self.layers is not None:
                raise conflict(
                    "a regex says in which layers; give layers with other targets", "layers", "targets"
                )
        return self


class Qlora(Lora):
    kind: Literal["qlora"]
    """Low-rank adapters beside weights quantised to 4-bit NF4 (Dettmers et al. 2023), or 8-bit."""
    bits: Literal[4, 8] = 4
    """Of the base weights: 4 (NF4), or 8 (LLM.int8, Dettmers et al. 2022)."""
    double_quantization: bool | None = None
    """Of 4 bits: quantise the quantisation constants too: 0.4 bit less per weight. None: with 4 bits, True."""

    @model_validator(mode="after")
    def _quantised(self):
        if self.init in ("pissa", "olora"):
            raise conflict(
                f'"{self.init}" changes the base weights, which are quantised here; use lora', "init"
            )
        if self.dora and self.bits == 8:
            raise conflict(
                "dora restores the weights, which bitsandbytes cannot from 8 bits on a CPU; use bits = 4",
                "dora",
                "bits",
            )
        if self.bits == 8 and self.double_quantization is not None:
            raise conflict("8 bits have no constants to quantise again", "double_quantization", "bits")
        if self.bits == 4 and self.double_quantization is None:
            object.__setattr__(self, "double_quantization", True)  # frozen from here on
        return self
