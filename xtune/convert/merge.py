"""Merging adapters into their base model: a directory that stock Transformers loads, checked against the adapters.

W + sum_i weight_i (alpha_i / rank_i) B_i A_i is made tensor by tensor, in the layout that the base has on disk. An
adapter that was trained beside 4-bit weights (QLoRA) is merged into the original weights, unless asked otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xtune.chat.generate import stop_ids
from xtune.convert.adapted import read_adapters
from xtune.convert.check import (
    LayersCheck,
    LogitsCheck,
    ScoresCheck,
    check_layers,
    check_loaded,
    device_for,
    observe_before,
)
from xtune.convert.disk import check_place, disk_errors
from xtune.convert.merged_files import described_model, write_beside
from xtune.convert.nf4 import Nf4, quantised_layers
from xtune.convert.rope import check_rope
from xtune.convert.shards import Merging
from xtune.convert.standalone import check_added_tokens
from xtune.convert.weights import StoredWeights, dtype_on_disk, size_on_disk
from xtune.data.encoding.encode import encode
from xtune.errors import UsageError, UserError
from xtune.families import read_config, read_layout
from xtune.families.embedded import model_directory
from xtune.families.family import Layout, Options
from xtune.families.tokenizer import load_tokenizer
from xtune.home import new_directory
from xtune.json_file import read_json_if_there, write_json
from xtune.messages import Message
from xtune.model.devices import choose_dtype
from xtune.model.health import meta_model
from xtune.model.libraries import import_libraries
from xtune.run.directory import Run, is_run
from xtune.run.target import NOTE, Target, check_base, find_target, read_note
from xtune.terminal import messages, quiet_libraries

if TYPE_CHECKING:
    from xtune.recipe.schema import Recipe

PROMPTS = (
    "Who are you?",
    "Write a short poem about the sea.",
    "中国的首都是哪里？",
    "请用一句话介绍你自己。",
)
_PROBES = 8  # of the run that are checked too, at most: they are all answered at once


@dataclass(frozen=True)
class Merged:
    """A merged model.

    path          its directory
    dtype         of most of its weights
    size          of its weights, in bytes
    base          the model that was merged into, as its adapters name it
    adapters      directory and weight of each adapter
    base_weights  "original", or "nf4": those that were merged into
    check         how near it comes to the base with the adapters beside it
    """

    path: Path
    dtype: str
    size: int
    base: str
    adapters: tuple[tuple[str, float], ...]
    base_weights: Literal["original", "nf4"]
    check: LogitsCheck | ScoresCheck | LayersCheck


def merge(
    adapter: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    base: str | Path | None = None,
    native: bool | None = None,
    weights: Sequence[float] | None = None,
    base_weights: Literal["original", "nf4"] = "original",
) -> Merged:
    """Merge an adapter (its directory, or that of a run) into its base model, in the new directory `out`; or several,
    which have one base, as the sum of what each changes.

    base          the base model, where it is not where it was at training
    native        whether to write transformers' layout, or the one that the base has; None: the base's, but of
                  reward models transformers'
    weights       of several adapters, in their order; None: 1 for each
    base_weights  "nf4": merge into the 4-bit weights that a QLoRA adapter was trained beside, in the base's type

    The base is read and written one tensor at a time. `out` appears when all is written and checked, or not at all.
    Raises UsageError where there is nothing to merge, the base is another one or `out` exists; ResourceError where disk
    or memory run out.
    """
    quiet_libraries()
    out = Path(out).expanduser()
    check_place(out, 0)  # before any work
    paths = [adapter] if isinstance(adapter, str | Path) else list(adapter)
    weights = list(weights or [1.0] * len(paths))
    targets = _mergeable(paths, weights, base)
    target, directory = targets[0], model_directory(targets[0].base)
    adapters = [each.adapter for each in targets]
    native = target.reward if native is None else native
    if not native:
        check_rope(directory, target.options)
    layout = read_layout(directory, target.options)
    tokenizer = load_tokenizer(target.tokenizer_path, family=target.options.family)
    check_added_tokens(target, tokenizer, native=native)
    described = described_model(target, tokenizer, native=native)
    recipe = next(filter(None, map(_recipe_of, paths)), None)
    seen = _seen_in_training(targets, recipe, directory, layout, base_weights)

    def read():
        return read_adapters(directory, layout, target.options, adapters, weights)

    adapted = read()
    into = seen if base_weights == "nf4" else None
    merging = Merging(StoredWeights(directory, layout, adapted.model), adapted, layout, native, into)
    check_place(out, sum(entry.size for entries in merging.entries().values() for entry in entries))
    stops = stop_ids(tokenizer, target.template)
    device, before = device_for(adapted.model), None
    if device:
        prompts = [
            encode(
                conversation, tokenizer=tokenizer, template=target.template, add_generation_prompt=True
            ).input_ids.tolist()
            for conversation in _conversations(recipe)
        ]
        beside = None if into else seen
        before = observe_before(
            target, read(), device, tokenizer, prompts, stops, into=into, trained_beside=beside
        )
    with disk_errors(out), new_directory(out) as work:
        merging.write(work)
        write_beside(merging, described, target, tokenizer, work)
        _note_adapters(work, targets, weights, base_weights)
        options = Options() if native else replace(target.options, rope_scaling=None)
        if before:
            check = check_loaded(work, options, target, before, tokenizer)
        else:
            check = check_layers(work, options, merging, read())
        dtype, size = dtype_on_disk(work), size_on_disk(work)
        if not math.isfinite(check.largest_difference):
            raise UsageError(
                f"The merged model, in {dtype}, computes what is no number.",
                where=", ".join(map(str, adapters)),
                fix="Train again with a lower learning rate, or use an earlier checkpoint.",
            )
    listed = tuple(zip(map(str, paths), weights, strict=True))
    return Merged(out, dtype, size, target.base, listed, base_weights, check)


def _mergeable(
    paths: Sequence[str | Path], weights: Sequence[float], base: str | Path | None
) -> list[Target]:
    """What each path is: adapters of one base."""
    if len(weights) != len(paths):
        raise UsageError(
            f"There are {len(paths)} adapters and {len(weights)} weights.",
            where="--weight",
            fix="Give as many, in the same order; or none, which is 1 for each.",
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise UsageError("A weight must be a number.", where="--weight", fix="Give one like 0.5.")
    targets: list[Target] = []
    for path in paths:
        base = targets[0].base if targets else base
        target = find_target(str(path), base=None if base is None else str(base))
        if target.adapter is None:
            raise UsageError(
                f"There is nothing to merge: {path} holds a whole model, which stands alone already.",
                where=target.base,
                fix=f"Use that directory as it is: {target.base}",
            )
        if targets:
            _check_alike(targets[0], target)
        check_base(target)
        if "base_fingerprint" not in read_note(target.adapter):
            messages().print(
                f"note: {path} does not tell the weights of its base; shapes are checked.",
                markup=False,
                soft_wrap=True,
            )
        targets.append(target)
    if "quantization_config" in read_config(model_directory(targets[0].base)):
        raise UsageError(
            "The weights of the base model are quantised on disk; an adapter cannot be merged into them.",
            where=targets[0].base,
            fix="Name the original with --base.",
        )
    return targets


def _check_alike(first: Target, other: Target) -> None:
    vocabularies = [
        load_tokenizer(each.tokenizer_path, family=each.options.family).get_vocab() for each in (first, other)
    ]
    for what, same in (
        ("kind of model", (first.reward, first.read_at) == (other.reward, other.read_at)),
        ("options of the model", first.options == other.options),
        ("chat template", first.template == other.template),
        ("tokenizer", vocabularies[0] == vocabularies[1]),
    ):
        if not same:
            raise UsageError(
                f"The adapters cannot be merged together: they were trained with another {what}.",
                where=f"{first.adapter}, {other.adapter}",
                fix="Merge adapters that were trained alike.",
            )


def _recipe_of(adapter: str | Path) -> Recipe | None:
    """Of the run that an adapter is the result of, where it lies in one."""
    from xtune.recipe.load import load_recipe

    path = Path(adapter).expanduser()
    run = next((each for each in (path, path.absolute().parent) if is_run(each)), None)
    if run is None:
        return None
    try:
        return load_recipe(Run(run).recipe_file)
    except UserError:  # its data may be gone, which is no reason not to merge
        return None


def _conversations(recipe: Recipe | None) -> list[list[Message]]:
    """The prompts to check with: the run's own probes, if it is one's, and some that are always the same."""
    probes, system = [], []
    if recipe:
        probes = recipe.probe.prompts[:_PROBES]
        system = [Message("system", recipe.probe.system)] if recipe.probe.system else []
    return [
        *([*system, Message("user", prompt)] for prompt in probes),
        *([Message("user", prompt)] for prompt in PROMPTS if prompt not in probes),
    ]


def _seen_in_training(
    targets: Sequence[Target],
    recipe: Recipe | None,
    directory: Path,
    layout: Layout | None,
    base_weights: str,
) -> Nf4 | None:
    """The 4-bit weights that all of the adapters were trained beside, or are said to have been."""
    bits = {target.bits or getattr(recipe and recipe.method, "bits", None) for target in targets}
    if base_weights == "nf4" and 8 in bits:
        raise UsageError(
            "The adapter was trained beside 8-bit weights, not NF4.",
            where="--base-weights nf4",
            fix="Merge it into the original weights: leave the option out.",
        )
    if base_weights != "nf4" and bits != {4}:
        return None
    import_libraries()
    dtype = choose_dtype(recipe.model.dtype if recipe else "auto")
    double = getattr(recipe and recipe.method, "double_quantization", True)
    return Nf4(quantised_layers(meta_model(directory, layout, targets[0].options)), dtype, double)


def _note_adapters(
    directory: Path, targets: Sequence[Target], weights: Sequence[float], base_weights: str
) -> None:
    """Tell in xtune.json what the model is made of."""
    adapters = [
        {"adapter": str(target.adapter), "weight": weight}
        for target, weight in zip(targets, weights, strict=True)
    ]
    made_of = {"base": targets[0].base, "base_weights": base_weights, "adapters": adapters}
    write_json(directory / NOTE, {**read_json_if_there(directory / NOTE), "merged": made_of})
