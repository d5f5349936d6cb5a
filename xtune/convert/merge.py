"""Merging an adapter into its base model: a directory that stock Transformers loads, checked against the adapter.

The sum W + (alpha / rank) B A is made in float32 and rounded once, to the type that the base has on disk. An
adapter that was trained beside 4-bit weights (QLoRA) is merged into the original weights, not the rounded ones.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.chat.generate import stop_ids
from xtune.convert.compare import Behaviour, largest_difference, logits_of, observe
from xtune.convert.disk import check_place, disk_errors
from xtune.convert.layout import write_model
from xtune.convert.rope import check_rope
from xtune.convert.standalone import check_added_tokens, write_companions
from xtune.convert.weights import ITEMSIZE, dtype_on_disk, size_on_disk
from xtune.data.encoding.encode import encode
from xtune.errors import UsageError, UserError
from xtune.families import read_config
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.families.tokenizer import load_tokenizer
from xtune.home import new_directory
from xtune.messages import Message
from xtune.model.adapters import load_adapter
from xtune.model.load import choose_device, load_model
from xtune.run.directory import Run, is_run
from xtune.run.target import Target, check_base, find_target

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from xtune.convert.reward import MergedReward

PROMPTS = (
    "Who are you?",
    "Write a short poem about the sea.",
    "中国的首都是哪里？",
    "请用一句话介绍你自己。",
)
_PROBES = 8  # of the run that are checked too, at most: they are all answered at once


@dataclass(frozen=True)
class Merged:
    """A merged model, and how near it comes to the base with the adapter beside it.

    path                        its directory
    dtype                       of its weights
    size                        of its weights, in bytes
    prompts                     how many were answered by both, in float32
    same_answers                how many of the greedy answers were the same to the last token
    largest_logit_difference    at any token of any prompt or answer
    adapter_effect              the same between the base with and without the adapter, as a yardstick
    """

    path: Path
    dtype: str
    size: int
    prompts: int
    same_answers: int
    largest_logit_difference: float
    adapter_effect: float


def merge(
    adapter: str | Path, out: str | Path, *, base: str | Path | None = None, native: bool = False
) -> Merged | MergedReward:
    """Merge an adapter (its directory, or that of a run) into its base model, in the new directory `out`.

    base    the base model, where it is not where it was at training
    native  write transformers' layout, not the one that the base has; reward models always have it

    `out` appears when all is written and checked, or not at all. Raises UsageError where there is nothing to
    merge, the base is another one or `out` exists; ResourceError where disk or memory run out.
    """
    import torch

    out = Path(out).expanduser()
    target = find_target(str(adapter), base=None if base is None else str(base))
    _check_mergeable(target, str(adapter))
    if target.reward:
        from xtune.convert.reward import merge_reward

        return merge_reward(target, out)
    directory = model_directory(target.base)
    if not native:
        check_rope(directory, target.options)
    dtype, size = dtype_on_disk(directory), size_on_disk(directory)
    check_place(out, size)

    tokenizer = load_tokenizer(target.tokenizer_path, family=target.options.family)
    check_added_tokens(target, tokenizer, native=native)
    stops, pad = stop_ids(tokenizer, target.template), tokenizer.pad_token_id
    prompts = [
        encode(
            messages, tokenizer=tokenizer, template=target.template, add_generation_prompt=True
        ).input_ids.tolist()
        for messages in _conversations(Path(adapter).expanduser())
    ]
    device = device_for(size * 4 // ITEMSIZE[dtype])
    model = load_untied(target, device)
    before = observe(model, prompts, stops=stops, pad=pad)
    with model.disable_adapter():
        effect = largest_difference(before.logits, logits_of(model, before.texts, pad))
    model = merge_weights(model, target)
    with disk_errors(out), new_directory(out) as work:
        write_model(model.to(getattr(torch, dtype)), directory, work, options=target.options, native=native)
        del model
        write_companions(target, tokenizer, work, native=native)
        options = Options() if native else replace(target.options, rope_scaling=None)
        after = _reload(work, options, device, before, prompts, stops, pad)
        difference = largest_difference(before.logits, after.logits)
        if not math.isfinite(difference):
            raise UsageError(
                f"The merged weights are not numbers in {dtype}: the adapter holds NaN, or overflows it.",
                where=str(target.adapter),
                fix="Train again with a lower learning rate, or use an earlier checkpoint.",
            )
        size = size_on_disk(work)
    same = sum(one == other for one, other in zip(before.answers, after.answers, strict=True))
    return Merged(out, dtype, size, len(prompts), same, difference, effect)


def _check_mergeable(target: Target, adapter: str) -> None:
    if target.adapter is None:
        raise UsageError(
            f"There is nothing to merge: {adapter} holds a whole model, which stands alone already.",
            where=target.base,
            fix=f"Use that directory as it is: {target.base}",
        )
    check_base(target)
    if "quantization_config" in read_config(model_directory(target.base)):
        raise UsageError(
            "The weights of the base model are quantised on disk; an adapter cannot be merged into them.",
            where=target.base,
            fix="Name the original with --base.",
        )


def _conversations(adapter: Path) -> list[list[Message]]:
    """The prompts to check with: the run's own probes, if it is one's, and some that are always the same."""
    probes, system = [], []
    run = next((path for path in (adapter, adapter.absolute().parent) if is_run(path)), None)
    if run:
        from xtune.recipe.load import load_recipe

        try:
            probe = load_recipe(Run(run).recipe_file).probe
        except UserError:  # its data may be gone, which is no reason not to merge
            pass
        else:
            probes = probe.prompts[:_PROBES]
            system = [Message("system", probe.system)] if probe.system else []
    return [
        *([*system, Message("user", prompt)] for prompt in probes),
        *([Message("user", prompt)] for prompt in PROMPTS if prompt not in probes),
    ]


def device_for(size: int) -> str:
    """Where to compute in float32: the GPU if `size` bytes of weights fit, else the CPU, which only takes longer."""
    import torch

    device = choose_device()
    return device if device == "cpu" or torch.cuda.mem_get_info()[0] > 1.3 * size else "cpu"


def load_untied(target: Target, device: str) -> PeftModel:
    """Base and adapter side by side, in float32, with input and output embeddings apart."""
    model = load_model(target.base, dtype="float32", device=device, options=target.options)
    _untie(model)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*tie_word_embeddings.*"
        )  # PEFT's, of what is seen to here
        return load_adapter(model, target.adapter)


def _untie(model: PreTrainedModel) -> None:
    """Give the output layer its own copy of weights that it shares with the embedding.

    An adapter on one of the two would change the other as well when it is merged.
    """
    import torch

    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if output is not None and output.weight is embedding.weight:
        output.weight = torch.nn.Parameter(output.weight.detach().clone(), requires_grad=False)


def merge_weights(model: PeftModel, target: Target) -> PreTrainedModel:
    """The base model with the adapter in its weights; tied again where the adapter left both layers equal."""
    import torch

    was_tied = model.config.tie_word_embeddings
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
            merged = model.merge_and_unload(safe_merge=True)
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise UsageError(
            f"This adapter cannot be merged: {str(error).splitlines()[0]}",
            where=str(target.adapter),
            fix="Use it beside its base model, or train a LoRA adapter.",
        ) from error
    if was_tied:
        output, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
        tied = torch.equal(output.weight, embedding.weight)
        if tied:
            output.weight = embedding.weight
        merged.config.tie_word_embeddings = tied
    return merged


def _reload(directory, options, device, before: Behaviour, prompts, stops, pad) -> Behaviour:
    """What the model on disk says, in float32 again: what differs comes from merging and rounding alone."""
    model = load_model(directory, dtype="float32", device=device, options=options)
    return observe(model, prompts, stops=stops, pad=pad, texts=before.texts)
