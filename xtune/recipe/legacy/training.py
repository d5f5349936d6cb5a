"""The sections `train` and `probe` of an XTuner config's optimizer, schedule and hooks.

XTuner counts iterations, of one batch on each GPU; xtune counts steps of the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from xtune.recipe.legacy.data import Datasets
from xtune.recipe.legacy.old_config import OldConfig, last_name
from xtune.recipe.legacy.shipped import shipped_parts

_OPTIMIZERS = {
    **dict.fromkeys(("AdamW", "FusedAdam", "DeepSpeedCPUAdam", "adamw_torch", "adamw_torch_fused"), "adamw"),
    **dict.fromkeys(("AdamW8bit", "adamw_8bit", "adamw_bnb_8bit"), "adamw_8bit"),
    **dict.fromkeys(("PagedAdamW32bit", "paged_adamw_32bit"), "adamw"),
    **dict.fromkeys(("PagedAdamW8bit", "paged_adamw_8bit"), "paged_adamw_8bit"),
    "Adafactor": "adafactor",
    "Lion": "lion",
    "Lion8bit": "lion_8bit",
}
_FOR_ALL = 1_000_000
"""Checkpoints that are kept where none is deleted."""


def import_training(old: OldConfig, data: Datasets) -> dict[str, Any]:
    """The recipe's section `train`, without the objective."""
    wrapper, loader = old.part("optim_wrapper"), old.part("train_dataloader")
    processes = old.take("sequence_parallel_size", 1) or 1
    strategy = old.part("strategy")
    if strategy.values:
        processes = max(processes, strategy.take("sequence_parallel_size", 1))
    accumulate = wrapper.take("accumulative_counts", 1)
    train = {
        **_batch(loader, data, accumulate, processes),
        **_optimizer(wrapper),
        **_length(old.part("train_cfg"), accumulate),
        **_spread(strategy),
    }
    train.update(_schedule(old, old.part("train_cfg"), accumulate))
    train.update(_checkpoints(old.part("default_hooks").part("checkpoint"), accumulate))
    if processes > 1:
        train["sequence_parallel"] = processes
    randomness = old.part("randomness")
    if (seed := randomness.take("seed")) is not None:
        train["seed"] = seed
    for name in ("max_epochs", "max_iters"):
        old.part("train_cfg").take(name)
    return train


def _batch(loader: OldConfig, data: Datasets, accumulate: int, processes: int) -> dict[str, Any]:
    """The size of a step on as few GPUs as there can be: batch_size x accumulative_counts."""
    size = loader.take("batch_size") or loader.part("batch_sampler").take("batch_size") or 1
    if data.row_lengths:
        batch = {"batch_tokens": size * accumulate * max(data.row_lengths)}
    else:
        batch = {"batch_size": size * accumulate, "micro_batch_size": size}
    if (
        not data.row_lengths
        and last_name(loader.part("sampler").values.get("type")) == "LengthGroupedSampler"
    ):
        batch["group_by_length"] = True  # goes to data
    gpus = "a GPU" if processes == 1 else f"{processes} GPUs, which share each row"
    (name, number), *_ = batch.items()
    loader.notes.append(
        f"batch_size = {size}, accumulative_counts = {accumulate}: train.{name} is of {gpus}; XTuner took as many "
        f"on each, xtune counts over all: where XTuner trained on N times as many, write N * {number}"
    )
    return batch


def _optimizer(wrapper: OldConfig) -> dict[str, Any]:
    optimizer, clip = wrapper.part("optimizer"), wrapper.part("clip_grad")
    kind = optimizer.kind()
    name = _OPTIMIZERS.get(kind)
    if name is None:
        optimizer.note("type", kind, "adamw takes its place")
    elif "32bit" in kind:
        optimizer.note("type", kind, f"{name} takes its place, whose state stays on the device")
    train: dict[str, Any] = {"optimizer": name or "adamw", "lr": optimizer.take("lr")}
    train["weight_decay"] = optimizer.take("weight_decay", 0.01 if "Adam" in kind else 0.0)
    for option, usual in (("betas", [0.9, 0.999]), ("eps", 1e-8)):
        if (value := optimizer.take(option, usual)) != usual:
            optimizer.note(option, value, f"xtune has {usual}")
    norm = clip.take("max_norm")
    if clip.take("norm_type", 2) != 2 or not norm:
        wrapper.note("clip_grad", norm, "gradients are scaled down to norm 1, train.max_grad_norm")
    else:
        train["max_grad_norm"] = norm
    return {name: value for name, value in train.items() if value is not None}


def _length(loop: OldConfig, accumulate: int) -> dict[str, Any]:
    epochs, iterations = loop.values.get("max_epochs"), loop.values.get("max_iters")
    if iterations:
        return {"steps": math.ceil(iterations / accumulate)}
    return {"epochs": epochs or 1}


def _schedule(old: OldConfig, loop: OldConfig, accumulate: int) -> dict[str, Any]:
    """Warm-up and what follows it, of mmengine's list of schedulers."""
    lengths = {False: loop.values.get("max_iters"), True: loop.values.get("max_epochs") or 1}  # by epoch
    train: dict[str, Any] = {"schedule": "constant", "warmup": 0}
    for part in old.parts("param_scheduler"):
        kind, end, by_epoch = part.kind(), part.take("end"), part.take("by_epoch", True)
        begin, length = part.take("begin", 0), lengths[by_epoch] or math.inf
        part.take("convert_to_iter_based")
        if kind in ("LinearLR", "ConstantLR") and not begin and end and end < length:
            for name in ("start_factor", "factor"):
                part.take(name)
            train["warmup"] = round(end / length, 6) if by_epoch else math.ceil(end / accumulate)
        elif kind == "CosineAnnealingLR":
            train["schedule"] = "cosine"
            part.take("T_max")
            if least := part.take("eta_min", 0) or part.take("eta_min_ratio", 0):
                part.note("eta_min", least, "the rate falls to 0")
        elif (kind == "PolyLR" and part.take("power", 1) == 1) or (
            kind == "LinearLR" and part.take("end_factor", 1) == 0
        ):
            train["schedule"] = "linear"
        elif kind != "ConstantLR":
            part.note("type", kind, f"the schedule is {train['schedule']}")
    return train


def _spread(strategy: OldConfig) -> dict[str, Any]:
    if not strategy.values:
        return {}
    kind, config = strategy.kind(), strategy.take("config")
    if kind == "DeepSpeedStrategy":
        zero = (config if isinstance(config, dict) else {}).get("zero_optimization", strategy.values)
        stage = zero.get("stage")
        if isinstance(config, str):
            return {"deepspeed": _zero_named(config)}
        if stage in (1, 2, 3):
            strategy.values.clear()
            if more := {
                name: zero[name] for name in zero if name != "stage" and not name.startswith("offload_")
            }:
                text = "DeepSpeed's defaults are used; train.deepspeed may name a file with others"
                strategy.note("zero_optimization", more, text)
            offload = "_offload" if stage > 1 and _offloads(zero) else ""
            return {"deepspeed": f"zero{stage}{offload}"}
    if kind == "FSDPStrategy":
        return {"fsdp": True}
    strategy.note("type", kind, "train.deepspeed or train.fsdp spread a model over GPUs")
    return {}


def _offloads(zero: dict[str, Any]) -> bool:
    devices = [zero.get(f"offload_{part}") for part in ("optimizer", "param")]
    return any((device or {}).get("device", "none") != "none" for device in devices)


def _zero_named(file: str) -> str:
    """ "zero2" of XTuner's own deepspeed_zero2.json; of another, the file."""
    name = last_name(file.replace("/", ".").removesuffix(".json")).removeprefix("deepspeed_")
    known = ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
    return name if name in known else file


def _checkpoints(hook: OldConfig, accumulate: int) -> dict[str, Any]:
    by_epoch, interval = hook.take("by_epoch", True), hook.take("interval", 1)
    train: dict[str, Any] = {}
    if interval and interval > 0 and not by_epoch:
        train["checkpoint_every"] = max(1, round(interval / accumulate))
    elif hook.values and (interval != 1 or by_epoch):
        unit = "epochs" if by_epoch else "iterations"
        hook.note(
            "interval", f"{interval} {unit}", "ten checkpoints are written, as train.checkpoint_every says"
        )
    keep = hook.take("max_keep_ckpts", 2)
    train["keep_checkpoints"] = keep if keep and keep > 0 else _FOR_ALL
    return train


def import_hooks(old: OldConfig, formats: Iterable[str]) -> dict[str, Any]:
    """The recipe's section `probe`, of EvaluateChatHook. formats: of the data"""
    probe: dict[str, Any] = {}
    for hook in old.parts("custom_hooks"):
        kind = last_name(hook.values.get("type"))
        if kind in (
            "DatasetInfoHook",
            "ThroughputHook",
            "VarlenAttnArgsToMessageHubHook",
            "HFCheckpointHook",
        ):
            hook.values.clear()
        elif kind == "EvaluateChatHook":
            hook.kind()
            hook.key = kind
            probe = _probe(hook, formats)
    if not any(hook.values for hook in old.parts("custom_hooks")):
        old.take("custom_hooks")
    return probe


def _probe(hook: OldConfig, formats: Iterable[str]) -> dict[str, Any]:
    prompts = hook.take("evaluation_inputs", [])
    probe: dict[str, Any] = {"prompts": [prompts] if isinstance(prompts, str) else prompts}
    system = hook.take("system", "")
    if isinstance(system, str) and ".SYSTEM_TEMPLATE." in system:
        ours = {part["probe"]["system"] for part in shipped_parts("data") if _says_system(part, formats)}
        if ours:
            (probe["system"], *_) = ours
        instead = (
            "xtune's own words for it are in data and probe"
            if ours
            else "left out, as the data is given none"
        )
        hook.note("system", f"SYSTEM_TEMPLATE.{last_name(system)}", instead)
    elif system:
        probe["system"] = system
    if longest := hook.take("max_new_tokens"):
        probe["max_new_tokens"] = longest
    if instruction := hook.take("instruction"):  # in the first versions
        hook.note("instruction", instruction, "model.template says how a question is put")
    if every := hook.take("every_n_iters"):
        hook.note("every_n_iters", every, "prompts are answered before and after training")
    for name in ("tokenizer", "prompt_template", "stop_word", "stop_words"):
        hook.take(name)
    return probe


def _says_system(part: dict[str, Any], formats: Iterable[str]) -> bool:
    """Whether a shipped part is of data of one of these formats, and has a system prompt for it."""
    return part["data"]["sources"][0].get("format") in formats and "system" in part.get("probe", {})
