"""What a recipe may say. `Recipe` is frozen, validated and complete: every default is filled in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xtune.recipe.data_schema import Data as Data
from xtune.recipe.data_schema import Defects as Defects
from xtune.recipe.data_schema import Source as Source
from xtune.recipe.method_schema import Full as Full
from xtune.recipe.method_schema import Lora as Lora
from xtune.recipe.method_schema import Qlora as Qlora
from xtune.recipe.section import Section as Section
from xtune.recipe.section import conflict


class Model(Section):
    path: str
    """Directory of the base model in Transformers format, or the name of an embedded one ("smollm2")."""
    family: str = "auto"
    """Model family; "auto" recognises it from config.json. One of your own: a path to a .py file."""
    template: str = "auto"
    """Chat template: a name from xtune/templates, a path to a .jinja file, or "auto" for the model's own."""
    template_variables: dict[str, bool | int | float | str | None] = {}
    """What the chat template is given besides messages: enable_thinking (Qwen3), date_string (LLaMA 3.1) …"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the base weights; "auto" is bfloat16 where the device multiplies it fast, else float32."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel; "auto" is the fastest that keeps packed samples apart on this device."""
    norm_head: bool | None = None
    """Baichuan: whether the rows of the output layer are normalised. None: Baichuan2's are."""
    position: Literal["rope", "alibi"] | None = None
    """Baichuan: rotary embeddings or ALiBi. None: rotary where config.json has max_position_embeddings."""
    rope: Literal["plain", "dynamic", "linear"] | None = None
    """InternLM: "plain", or "dynamic" past the trained length. ChatGLM: rope_ratio raises the base ("plain") or
    divides positions ("linear"). None: as config.json says, else as published."""


class Train(Section):
    objective: Literal["sft", "pretrain"] = "sft"
    """sft: next-token prediction on the assistant's turns. pretrain: on all of plain documents."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion", "lion_8bit"] = "adamw"
    """adamw is torch's fused one. The state of the others takes less memory: 8 bits, paged out to the CPU, by rows and
    columns (adafactor), one moment (lion)."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the learning rate falls after warm-up; wsd (warm-up, stable, decay): at the end only."""
    warmup: float | int = Field(0.03, ge=0)
    """Steps in which the learning rate rises from 0: a share below 1, or a number."""
    decay: float | None = Field(None, gt=0, lt=1)
    """Of wsd: share of the steps in which the learning rate falls to 0. None: 0.1."""
    batch_size: int = Field(8, ge=1)
    """Samples per optimizer step, over all devices."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Samples per forward pass; must divide batch_size. None: all of batch_size at once."""
    batch_tokens: int | None = Field(None, ge=8)
    """Tokens per optimizer step, about; instead of batch_size. Each forward pass takes up to data.max_length."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the data. Default 3 where steps is not given."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; give this or epochs."""
    seed: int = 0
    """Of initialisation, data order and dropout."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints. None: ten in a run."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints kept; older ones are deleted."""

    @model_validator(mode="after")
    def _consistent(self):
        size, micro = self.batch_size, self.micro_batch_size
        if self.steps is not None and self.epochs is not None:
            raise conflict("give steps or epochs, not both", "steps", "epochs")
        if micro and size % micro:
            raise conflict(f"{micro} does not divide batch_size {size}", "micro_batch_size", "batch_size")
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise conflict("give a share below 1, or a whole number of steps", "warmup")
        if self.decay is not None and self.schedule != "wsd":
            raise conflict('only schedule = "wsd" has a decay of its own', "decay", "schedule")
        return self


class Probe(Section):
    prompts: list[str] = []
    """Asked before and after training; the answers are shown side by side."""
    system: str | None = None
    """System prompt of the probes."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer, in tokens."""


class Recipe(Section):
    """Everything a run depends on: what a run directory keeps, and what a run can be repeated from."""

    model: Model
    method: Annotated[Full | Lora | Qlora, Field(discriminator="kind")]
    data: Data
    train: Train = Train()
    probe: Probe = Probe()
    name: str = "recipe"
    """Names the run directory; the recipe's file name unless given."""
