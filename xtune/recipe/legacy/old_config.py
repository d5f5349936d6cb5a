"""The values of an XTuner config, each of which has to be answered for: what nobody takes is told to the user."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from xtune.errors import UsageError

ANY = object()

SECTIONS = (
    *("model", "tokenizer", "train_dataloader", "val_dataloader", "test_dataloader"),
    *(
        "optim_wrapper",
        "param_scheduler",
        "train_cfg",
        "val_cfg",
        "test_cfg",
        "val_evaluator",
        "test_evaluator",
    ),
    *("custom_hooks", "default_hooks", "strategy", "env_cfg", "visualizer", "log_level", "log_processor"),
    *("load_from", "resume", "randomness", "sequence_parallel_size", "training_args", "auto_scale_lr"),
)
"""The names in a config that XTuner and mmengine look at; all others only help to state these."""

_DONE_ANYWAY: dict[str, Any] = {
    # A family's own code and tokenizer take the place of what is loaded from the hub.
    "*.trust_remote_code": ANY,
    **dict.fromkeys(
        (
            f"tokenizer.{name}"
            for name in ("type", "padding_side", "encode_special_tokens", "eos_token", "use_fast")
        ),
        ANY,
    ),
    "*.tokenizer.*": ANY,
    # Types, attention and what is compiled are chosen for the device.
    "*.torch_dtype": ("torch.float16", "torch.bfloat16", "auto", None),
    "*.attn_implementation": ANY,
    "model.use_varlen_attn": ANY,  # packed samples never see each other
    "model.type": ANY,
    "model.llm.type": ANY,
    # Samples are encoded before training, packed and shuffled.
    "train_dataloader.num_workers": ANY,
    "train_dataloader.prefetch_factor": ANY,
    "train_dataloader.pin_memory": ANY,
    "train_dataloader.persistent_workers": ANY,
    "train_dataloader.collate_fn.*": ANY,
    "train_dataloader.sampler.shuffle": (True,),
    "train_dataloader.sampler.[!s]*": ANY,
    "train_dataloader.sampler.seed": ANY,
    "train_dataloader.batch_sampler.*": ANY,
    "optim_wrapper.type": ("*AmpOptimWrapper", "*OptimWrapper", "*DeepSpeedOptimWrapper"),
    "optim_wrapper.dtype": ANY,
    "optim_wrapper.loss_scale": ANY,
    "optim_wrapper.clip_grad.error_if_nonfinite": (False,),
    # Metrics, checkpoints and the model are written in each run.
    "train_cfg.type": ("*TrainLoop", "*IterBasedTrainLoop", "*EpochBasedTrainLoop"),
    "train_cfg.by_epoch": ANY,
    "train_cfg.val_interval": ANY,  # val_dataloader is told of
    "default_hooks.*.type": ("mmengine.*", "*Hook"),
    "default_hooks.logger.*": ANY,
    "default_hooks.checkpoint.save_last": ANY,
    "default_hooks.checkpoint.save_optimizer": ANY,
    "env_cfg.*": ANY,
    "log_level": ANY,
    "log_processor.*": ANY,
    "visualizer": (None,),
    "randomness.deterministic": (False,),
    "resume": (False, None),
    "load_from": (None, ""),
    "custom_hooks": (None,),
}
"""What xtune does without being asked, or has no need of; with which values, where others would mean something."""

_WHY = {
    "val_": "data.held_out keeps samples of the training data, to measure the loss on",
    "test_": "`xtune eval` measures a finished run",
    "load_from": "`xtune convert pth` makes an adapter or a model of it; name a model as model.path",
    "resume": "`xtune train --resume RUN` goes on with a run of xtune's",
    "visualizer": "each run keeps metrics.jsonl and loss.png",
    "custom_hooks": "xtune has no hooks",
}


class OldConfig:
    """A dict of an old config, whose values are taken out one by one. All dicts of a config share `notes`."""

    def __init__(self, values: dict[str, Any], key: str = "", notes: list[str] | None = None):
        self.values, self.key = values, key
        self.notes: list[str] = [] if notes is None else notes

    def take(self, name: str, default: Any = None) -> Any:
        """The value of that name, which is then gone."""
        return self.values.pop(name, default)

    def kind(self) -> str:
        """The last part of the class or function that the dict is for: "LoraConfig"."""
        return last_name(self.take("type")) or "dict"

    def part(self, name: str) -> OldConfig:
        """The dict of that name, an empty one where there is none."""
        value = self.values.get(name)
        return OldConfig(value if isinstance(value, dict) else {}, self._below(name), self.notes)

    def parts(self, name: str) -> list[OldConfig]:
        """The dicts of a list."""
        value = self.values.get(name)
        items = value if isinstance(value, list) else [value]
        return [
            OldConfig(item, self._below(f"{name}.{number}"), self.notes)
            for number, item in enumerate(items)
            if isinstance(item, dict)
        ]

    def note(self, name: str, value: Any, why: str) -> None:
        """Tell of a value that the recipe has not, or not as it was."""
        given = repr(value)
        self.notes.append(f"{self._below(name)} = {given if len(given) <= 60 else given[:57] + '...'}: {why}")

    def wrong(self, name: str, value: Any, what: str, fix: str) -> UsageError:
        """An error about a config that cannot be imported."""
        return UsageError(f"{self._below(name)} = {value!r}: {what}.", fix=fix)

    def note_what_is_left(self) -> None:
        """Tell of all values that nobody has taken, and that are not done anyway."""
        for key, value in _leaves(self.values, self.key):
            if not _done_anyway(key, value):
                why = next((why for start, why in _WHY.items() if key.startswith(start)), "no counterpart")
                OldConfig({}, "", self.notes).note(key, value, why)

    def _below(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name


def last_name(value: Any) -> str:
    """ "AdamW" of "torch.optim.AdamW", and of a function its name; "from_pretrained" counts with its class."""
    name = str(getattr(value, "__name__", "" if value is None else value)).removesuffix(".from_pretrained")
    return name.rpartition(".")[2]


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if key.count(".") == 0 and key.startswith(("val_", "test_")) and value:  # all of it is of one use
        yield key, value
    elif isinstance(value, dict) and (value or not key):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{key}.{number}")
    elif value not in ({}, []):
        yield key, value


def _done_anyway(key: str, value: Any) -> bool:
    for pattern, allowed in _DONE_ANYWAY.items():
        if fnmatchcase(key, pattern) and (
            allowed is ANY
            or any(
                value == each or (isinstance(each, str) and fnmatchcase(str(value), each)) for each in allowed
            )
        ):
            return True
    return False
