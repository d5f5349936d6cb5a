"""An estimate, and bytes and times, in words."""

from __future__ import annotations

from collections.abc import Iterator

from xtune.training.estimate.estimate import Estimate


def lines(found: Estimate) -> Iterator[str]:
    """For people."""
    yield from _weights_and_data(found)
    yield from _memory(found)
    if found.seconds is not None:
        speed = found.step_tokens * found.steps / found.seconds
        yield f"time     about {duration(found.seconds)} on {found.device.name} ({speed:,.0f} tokens/s), undisturbed"
    number = f"{found.checkpoints} checkpoints" if found.checkpoints > 1 else "a checkpoint"
    yield f"disk     {number} of {size(found.checkpoint)}, a result of {size(found.result)}"


def _weights_and_data(found: Estimate) -> Iterator[str]:
    weights, about = found.weights, "about " if found.sampled else ""
    trained = f"{found.method} trains {weights.trained:,} ({weights.trained / weights.all:.2%})"
    yield f"model    {found.model}: {weights.all:,} weights; {trained}"
    learnt = f"{found.labels:,} with loss ({found.labels / max(1, found.tokens):.0%})"
    yield f"data     {about}{found.samples:,} samples, {found.tokens:,} tokens, {learnt}"
    if found.sampled:
        yield "         told by the first records of large files, which are not encoded yet"
    yield f"steps    {about}{found.steps:,}, of about {found.step_tokens:,} tokens, {found.step_labels:,} with loss"
    rows = f" in {found.longest.rows} rows" if found.longest.rows > 1 else ""
    yield f"         the largest forward pass takes {found.longest.tokens:,} tokens{rows}"


_PARTS = {
    "libraries": "PyTorch and other libraries",
    "weights": "weights",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "logits": "logits and their gradients",
    "generation": "keys and values of answers",
}


def _memory(found: Estimate) -> Iterator[str]:
    memory, device = found.memory, found.device
    each = " of each process" if found.processes > 1 else ""
    has = f"{size(device.limit)} {'on' if device.on_gpu else 'are free on'} {device.name}"
    yield f"memory   {size(memory.total)} at the peak{each}, {has}: {'it fits' if found.fits else 'too little'}"
    for part, name in _PARTS.items():
        if taken := getattr(memory, part):
            again = (
                ", computed again in the backward pass"
                if memory.checkpointing and part == "activations"
                else ""
            )
            yield f"         {size(taken):>9}  {name}{again}"
    for number, (setting, less) in enumerate(found.helps):
        yield f"{'' if number else 'less by':8} {size(less):>9}  {setting}"


def size(count: float) -> str:
    """Bytes in words."""
    if count >= 2**30 / 10:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 / 10 else f"{count / 2**10:.1f} KiB"


def duration(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
