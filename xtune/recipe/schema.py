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
from xtune.recipe.objective_schema import Objective as Objective
from xtune.recipe.objective_schema import Sft as Sft
from xtune.recipe.section import Section as Section
from xtune.recipe.section import conflict


class RopeScaling(Section):
    type: Literal["linear", "dynamic", "yarn", "llama3"]
    """How texts get room. linear divides positions (Chen et al. 2023); dynamic raises the base with a text past the
    length of pretraining (NTK); yarn (Peng et al. 2023) and llama3 divide slow frequencies and leave fast ones."""
    factor: float = Field(ge=1)
    """By which the length grows."""
    original_max_position_embeddings: int | None = Field(None, ge=1)
    """Length of pretraining, from which the factor counts. None: as config.json says."""


class Model(Section):
    path: str
    """Directory of the base model in Transformers format, or the name of an embedded one ("smollm2")."""
    family: str = "auto"
    """Model family; "auto" recognises it from config.json. One of your own: a path to a .py file."""
    template: str = "auto"
    """Chat template: a name from xtune/templates, a path to a .jinja file, or "auto" for the model's own."""
    template_variables: dict[str, bool | int | float | str | None] = {}
    """What the chat template is given besides messages: enable_thinking (Qwen3), date_string (LLaMA 3.1) …"""
    added_tokens: list[str] = []
    """Tokens that the model is to have besides its own, each never split: ["<tool>", "</tool>"]. They are trained."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the base weights; "auto" is bfloat16 where the device multiplies it fast, else float32. Full training is
    always of float32 weights."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel; "auto" is the fastest that keeps packed samples apart on this device."""
    norm_head: bool | None = None
    """Baichuan: whether the rows of the output layer are normalised. None: Baichuan2's are."""
    position: Literal["rope", "alibi"] | None = None
    """Baichuan: rotary embeddings or ALiBi. None: rotary where config.json has max_position_embeddings."""
    rope: Literal["plain", "dynamic", "linear"] | None = None
    """InternLM: "plain", or "dynamic" past the trained length. ChatGLM: rope_ratio raises the base ("plain") or
    divides positions ("linear"). None: as config.json says, else as published."""
    rope_scaling: RopeScaling | None = None
    """Rotary embeddings for longer texts than the model was pretrained on: dict(type="yarn", factor=4)."""

    @model_validator(mode="after")
    def _one_scaling(self):
        if self.rope_scaling and self.rope in ("dynamic", "linear"):
            raise conflict(
                f'rope = "{self.rope}" is the scaling of the published model; give one of the two',
                "rope_scaling",
                "rope",
            )
        return self

    @model_validator(mode="after")
    def _tokens(self):
        for token in self.added_tokens:
            if not token.strip():
                raise conflict(f"{token!r} is no token: it is blank", "added_tokens")
            if self.added_tokens.count(token) > 1:
                raise conflict(f"{token!r} is given twice", "added_tokens")
        return self


Kernel = Literal["loss", "lora", "mlp", "norm", "attention"]
"""What train.fused names."""

ZERO = ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
"""What train.deepspeed names without a file."""


class Train(Section):
    objective: Objective = Sft()
    """What is learnt: sft, pretrain, dpo, orpo, simpo, cpo, kto, reward, grpo, rloo, by name or as dict(kind="dpo",
    beta=0.1)."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate. None: what is usual for the objective and the method."""
    optimizer: Literal[
        "adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion", "lion_8bit", "galore"
    ] = "adamw"
    """adamw is torch's fused one. The state of the others takes less memory: 8 bits, paged out to the CPU, by rows and
    columns (adafactor), one moment (lion), of gradients projected to rank 128 (galore)."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the learning rate falls after warm-up; wsd (warm-up, stable, decay): at the end only."""
    warmup: float | int = Field(0.03, ge=0)
    """Steps in which the learning rate rises from 0: a share below 1, or a number."""
    decay: float | None = Field(None, gt=0, lt=1)
    """Of wsd: share of the steps in which the learning rate falls to 0. None: 0.1."""
    batch_size: int | None = Field(None, ge=1)
    """Samples per optimizer step, over all devices. None: 8, or as many as batch_tokens hold."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Samples per forward pass; must divide batch_size. None: all of batch_size at once, on a CPU about 768 packed
    tokens of them; grpo and rloo: one prompt with its answers."""
    batch_tokens: int | None = Field(None, ge=8)
    """Tokens per optimizer step, about; instead of batch_size. Each forward pass takes up to data.max_length."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the data. Default 3 where steps is not given."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; give this or epochs."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of initialisation, data order and dropout."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Recompute activations in the backward pass: less memory, about a third more time. "auto": where memory would not
    do otherwise."""
    on_oom: Literal["stop", "adapt"] = "stop"
    """Where a step runs out of memory: stop, and tell which settings would help; or adapt: go on with forward passes of
    half as many samples (micro_batch_size) in the same steps."""
    fused: bool | list[Kernel] = True
    """Kernels of xtune's own, which give what plain PyTorch does in less time and memory: loss (of the output layer,
    where there is a label), lora, mlp, norm, attention (projections and rotary embeddings). False: plain PyTorch."""
    deepspeed: str | None = None
    """What is spread over the processes by DeepSpeed. "zero1": the optimizer's state, "zero2": gradients too, "zero3":
    weights too; "zero2_offload", "zero3_offload": in the CPU's memory. Or a path to a DeepSpeed file in JSON."""
    fsdp: bool = False
    """Weights, gradients and optimizer are spread over the processes by PyTorch's FSDP2, as zero3 does."""
    sequence_parallel: int = Field(1, ge=1)
    """Processes that share the tokens of each row, for samples too long for one: a divisor of all processes and of the
    model's attention heads."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints. None: ten in a run."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints kept; older ones are deleted."""
    report_to: list[Literal["tensorboard", "wandb", "swanlab", "trackio"]] = []
    """Programs that show the figures of metrics.jsonl too, each to be installed besides."""

    @property
    def is_spread(self) -> bool:
        """Whether processes share what is kept of the model. Such a run writes its checkpoints in a form of its own,
        even where there is one process."""
        return self.fsdp or self.deepspeed is not None

    @model_validator(mode="after")
    def _consistent(self):
        if self.steps is not None and self.epochs is not None:
            raise conflict("give steps or epochs, not both", "steps", "epochs")
        self._check_batch()
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise conflict("give a share below 1, or a whole number of steps", "warmup")
        if self.steps is not None and self.warmup >= self.steps:
            raise conflict(f"all {self.steps} steps would be warm-up", "warmup", "steps")
        self._check_spread()
        if self.on_oom == "adapt":
            self._check_adapting()
        if self.decay is not None and self.schedule != "wsd":
            raise conflict('only schedule = "wsd" has a decay of its own', "decay", "schedule")
        return self

    def _check_batch(self) -> None:
        """Whether what is said of a step's size goes together; batch_size is filled in where it is what counts."""
        size, micro = self.batch_size, self.micro_batch_size
        if self.batch_tokens is None:
            size = 8 if size is None else size
            object.__setattr__(self, "batch_size", size)  # frozen from here on
            if micro and size % micro:
                raise conflict(f"{micro} does not divide batch_size {size}", "micro_batch_size", "batch_size")
            return
        if hasattr(self.objective, "completions"):
            raise conflict(
                "prompts are counted, whose answers have no length yet; give batch_size", "batch_tokens"
            )
        if size is not None:
            raise conflict(
                "give batch_tokens or batch_size, and None for the other", "batch_tokens", "batch_size"
            )
        if micro is not None:
            raise conflict(
                "with batch_tokens, a forward pass takes up to data.max_length; leave it out",
                "micro_batch_size",
                "batch_tokens",
            )

    def _check_adapting(self) -> None:
        """Whether there are smaller forward passes to go on with."""
        if self.batch_tokens is not None:
            raise conflict(
                "with batch_tokens, a forward pass may be one sample of data.max_length, which cannot be halved",
                "on_oom",
                "batch_tokens",
            )
        if hasattr(self.objective, "completions"):
            raise conflict(
                "it does not write fewer answers at once; lower generation_batch", "on_oom", "objective"
            )
        if self.is_spread:
            raise conflict("it does not go with DeepSpeed and FSDP, which train in many processes", "on_oom")

    def _check_spread(self) -> None:
        """Whether what is spread over processes goes with the optimizer."""
        if self.deepspeed and self.fsdp:
            raise conflict(
                "DeepSpeed and FSDP both spread the weights: give one of them", "fsdp", "deepspeed"
            )
        if self.fsdp and self.optimizer != "adamw":
            raise conflict(
                f'FSDP spreads the state of "adamw" only, not of {self.optimizer}', "optimizer", "fsdp"
            )
        if self.deepspeed and self.optimizer in ("adafactor", "galore"):
            raise conflict(
                f"{self.optimizer} needs whole matrices, of which each process has only a part here; "
                'use "adamw" or "adamw_8bit"',
                "optimizer",
                "deepspeed",
            )
        if (self.deepspeed or "").endswith("offload") and self.optimizer.startswith("paged"):
            raise conflict(
                "its state pages between GPU and CPU, and offload keeps it on the CPU; use adamw or adamw_8bit",
                "optimizer",
                "deepspeed",
            )


class Probe(Section):
    prompts: list[str] = []
    """Asked before and after training; the answers are shown side by side."""
    system: str | None = None
    """System prompt of the probes."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer, in tokens."""


_RATES = {"sft": (2e-4, 2e-5), "pretrain": (2e-4, 2e-5), "reward": (1e-4, 1e-5)}
_CAREFUL = (2e-5, 1e-6)
"""Usual learning rates of adapters and of all weights, by objective; those that move a trained model carefully."""


class Recipe(Section):
    """Everything a run depends on: what a run directory keeps, and what a run can be repeated from."""

    model: Model
    method: Annotated[Full | Lora | Qlora, Field(discriminator="kind")]
    data: Data
    train: Train = Train()
    probe: Probe = Probe()
    name: str = "recipe"
    """Names the run directory; the recipe's file name unless given."""

    @model_validator(mode="after")
    def _all_weights(self):
        if isinstance(self.method, Full) and self.model.dtype == "float16":
            raise conflict(
                "float16 is for weights that stay as they are: small steps are lost in it, and AdamW's divisors "
                'are 0; full training needs dtype = "auto"',
                "model",
            )
        return self

    @model_validator(mode="after")
    def _documents(self):
        for number, source in enumerate(self.data.sources if self.train.objective.kind == "pretrain" else ()):
            for option in ("system", "condition"):
                if getattr(source, option) is not None:
                    raise conflict(
                        f"sources.{number}.{option} is a system prompt, which the documents of pretrain have not",
                        "data",
                        "train",
                    )
        return self

    @model_validator(mode="after")
    def _answers(self):
        if self.train.objective.kind == "reward" and self.probe.prompts:
            raise conflict("a reward model answers nothing: leave out its prompts", "probe", "train")
        return self

    @model_validator(mode="after")
    def _too_long(self):
        kind, overlong = self.train.objective.kind, self.data.overlong
        if kind not in {"cut_turns": ("sft",), "split": ("sft", "pretrain")}.get(overlong, (kind,)):
            raise conflict(
                f'overlong = "{overlong}" makes no sense of what {kind} learns from; use "drop" or "cut"',
                "data",
                "train",
            )
        return self

    @model_validator(mode="after")
    def _sequences(self):
        if self.train.sequence_parallel == 1:
            return self
        kind = self.train.objective.kind
        if kind in ("reward", "grpo", "rloo"):
            raise conflict(f"sequence_parallel does not go with objective {kind}", "train")
        if not self.data.packing:
            raise conflict("sequence_parallel spreads packed rows; set data.packing = True", "train")
        return self

    @model_validator(mode="after")
    def _spread_adapters(self):
        if not self.train.fsdp or isinstance(self.method, Full):
            return self
        instead = 'with FSDP; train.deepspeed = "zero3" does the same and takes it'
        if self.model.added_tokens:
            raise conflict(f"rows of single tokens are not trained {instead}", "model", "train")
        if self.method.init not in ("default", "gaussian"):
            raise conflict(f'init = "{self.method.init}" does not go {instead}', "method", "train")
        return self

    @model_validator(mode="after")
    def _model_before_training(self):
        if getattr(self.train.objective, "kl", 0):
            if isinstance(self.method, Full):
                raise conflict(
                    "the objective's kl needs the model before training beside it: lora or qlora", "method"
                )
            if self.method.init in ("pissa", "olora", "loftq"):
                raise conflict("the objective's kl needs an adapter that begins as nothing", "method")
        return self

    @model_validator(mode="after")
    def _usual_rate(self):
        if self.train.lr is None:
            adapters, full = _RATES.get(self.train.objective.kind, _CAREFUL)
            lr = full if isinstance(self.method, Full) else adapters
            object.__setattr__(self, "train", self.train.model_copy(update={"lr": lr}))  # frozen from here on
        return self
