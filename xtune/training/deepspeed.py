"""DeepSpeed's configuration of a recipe: `train.deepspeed` names one of ours, or a file of the user's."""

from __future__ import annotations

import json
import os
import shutil
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from xtune.errors import RecipeError, ResourceError
from xtune.ranks import rank, ranks
from xtune.recipe.schema import ZERO, Recipe, Train
from xtune.run.directory import Run
from xtune.training.group import together
from xtune.training.pickled import tensors_only

_FROM_THE_RECIPE = ("optimizer", "scheduler")
_SECTIONS = ("zero_optimization", "bf16", "fp16", "checkpoint")


def make_ready(named: str) -> None:
    """Set DeepSpeed up for `train.deepspeed`. Raises ResourceError where it is not installed, RecipeError for a file of
    the user's that cannot be used."""
    if find_spec("deepspeed") is None:
        raise ResourceError(
            "DeepSpeed is not installed.", where="train.deepspeed", fix="pip install xtune[deepspeed]"
        )
    zero = _given(named).get("zero_optimization", {})
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed.ops

        # Compiled at the first use, for inference only. DeepSpeed keeps this list so that it can be edited.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    try:
        DeepSpeedZeroConfig(**{name: value for name, value in zero.items() if value != "auto"})
    except ValueError as error:
        raise RecipeError(
            f"DeepSpeed does not take zero_optimization: {error}",
            where=named,
            fix="Correct it; DeepSpeed's documentation lists the options.",
        ) from None


def deepspeed_config(
    recipe: Recipe, passes: int, on_gpu: bool, processes: int | None = None
) -> dict[str, Any] | None:
    """The dict that DeepSpeed takes, complete; None where the recipe does not want it. On GPUs weights are bfloat16,
    and the optimizer keeps them in float32.

    passes      forward passes of each process in a step
    processes   default: those that run

    Raises RecipeError where a file of the user's says otherwise than the recipe, or has no ZeRO stage.
    """
    train = recipe.train
    if train.deepspeed is None:
        return None
    ours = {
        "train_micro_batch_size_per_gpu": 1,  # one ready-made forward pass
        "gradient_accumulation_steps": passes,
        "train_batch_size": passes * (processes or ranks()),
        "gradient_clipping": train.max_grad_norm,
        "zero_allow_untested_optimizer": True,  # the recipe's, from torch
        "zero_force_ds_cpu_optimizer": False,  # torch's is as fast, and DeepSpeed's has to be compiled
    }
    given = _given(train.deepspeed)
    unlike = [
        f"{name} {given[name]}, not {value}"
        for name, value in ours.items()
        if not isinstance(value, bool) and given.get(name, "auto") not in ("auto", value)
    ]
    if unlike:
        raise RecipeError(
            f"It says otherwise than the recipe: {'; '.join(unlike)}.",
            where=train.deepspeed,
            fix='Write "auto" there, or leave it out.',
        )
    if not given.get("zero_optimization", {}).get(
        "stage"
    ):  # DeepSpeed would neither tell nor check gradients
        raise RecipeError(
            "This DeepSpeed file has no ZeRO stage: nothing would be spread.",
            where=train.deepspeed,
            fix="Give zero_optimization a stage from 1 to 3, or leave train.deepspeed out.",
        )
    config = {**ours, **{name: value for name, value in given.items() if value != "auto"}}
    half = on_gpu and recipe.model.dtype in ("auto", "bfloat16")
    for name, usual in (("bf16", half), ("fp16", False)):
        section = {"enabled": "auto", **config.get(name, {})}
        config[name] = {**section, "enabled": usual if section["enabled"] == "auto" else section["enabled"]}
    if (zero := config.setdefault("zero_optimization", {})).get("stage") == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # checkpoints hold the weights
    return config


def spreads_weights(train: Train) -> bool:
    """Whether each process keeps only a part of the weights: FSDP and ZeRO-3 do."""
    if ranks() == 1:
        return False
    return train.fsdp or zero_stage(train) == 3


def zero_stage(train: Train) -> int | None:
    """0 to 3; None without DeepSpeed."""
    return _given(train.deepspeed).get("zero_optimization", {}).get("stage", 0) if train.deepspeed else None


def _given(named: str) -> dict[str, Any]:
    if named in ZERO:
        return {"zero_optimization": _zero(named)}
    try:
        given = json.loads(Path(named).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"This DeepSpeed file cannot be read: {error}",
            where=named,
            fix=f"Name a JSON file, or one of {', '.join(ZERO)}.",
        ) from None
    if not isinstance(given, dict) or any(not isinstance(given.get(name, {}), dict) for name in _SECTIONS):
        raise RecipeError(
            "This DeepSpeed file cannot be used.",
            where=named,
            fix=f"It has to be an object, as have {', '.join(_SECTIONS)} in it.",
        )
    if doubled := [name for name in _FROM_THE_RECIPE if name in given]:
        raise RecipeError(
            f"The recipe says {' and '.join(doubled)}, not the DeepSpeed file.",
            where=named,
            fix="Take them out there: train.optimizer, train.lr and train.schedule say them.",
        )
    return given


def _zero(name: str) -> dict[str, Any]:
    stage = int(name[4])
    config: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if name.endswith("offload"):
        config["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        if stage == 3:
            config["offload_param"] = {"device": "cpu", "pin_memory": True}
    return config


class WriteConfig(TrainerCallback):
    """Writes what DeepSpeed was given, once all "auto" are filled in."""

    def __init__(self, run: Run):
        self.run = run

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            config = dict(args.hf_deepspeed_config.config)
            config.pop("steps_per_print", None)  # transformers' Infinity, which is no JSON
            self.run.write_json("deepspeed.json", config)


def use_universal(checkpoint: Path, config: dict[str, Any]) -> None:
    """Let DeepSpeed read a checkpoint of another number of processes.

    config   DeepSpeed's, before training: it is changed
    """
    (shards,) = checkpoint.glob("global_step*[0-9]")
    folder = checkpoint / f"{shards.name}_universal"
    with together():
        if rank() == 0:
            _to_universal(shards, folder)
    config["checkpoint"] = {**config.get("checkpoint", {}), "load_universal": True}


def _to_universal(shards: Path, folder: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(folder, ignore_errors=True)
    options = Namespace(
        input_folder=str(shards),
        output_folder=str(folder),
        num_extract_workers=1,  # in this process
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # which only DeepSpeed's relatives write
    )
    quiet = redirect_stdout(StringIO()), redirect_stderr(StringIO())
    with quiet[0], quiet[1], tensors_only(shards.parent, deepspeed=True):
        ds_to_universal.main(options)
    (folder.parent / "latest_universal").write_text(folder.name)
