"""LoRA adapters between the two layouts: trained on a publisher's own code, and on transformers' classes.

Where a layer is only renamed, its tensors are as well. A fused layer's weight is [W_q; W_k; W_v] + s B A, so
    import    A goes to all three, and B is cut as the weight is
    export    the three A's are one, as after an import: B is joined again; else the rank is the sum of theirs:
              s [B_q 0 0; 0 B_k 0; 0 0 B_v] [A_q; A_k; A_v]
Both are exact. So they are for DoRA (arXiv:2402.09353), whose norms are of single rows, and for biases.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xtune.convert.adapter_config import (
    Config,
    check_targets,
    config_for,
    for_old_peft,
    read_config,
    saved_layers,
    some,
    value_for,
)
from xtune.convert.adapter_layers import (
    Layer,
    Names,
    Shapes,
    check_whole,
    faults,
    join_layers,
    layer_of,
    split_layer,
)
from xtune.convert.disk import check_place, disk_errors
from xtune.convert.standalone import copy_tokenizer
from xtune.errors import UsageError
from xtune.families import read_layout
from xtune.families.embedded import model_directory
from xtune.families.family import Layout
from xtune.families.layout import Fused
from xtune.home import new_directory
from xtune.json_file import write_json
from xtune.model.adapters import PREFIX, read_adapter
from xtune.run.directory import Run, is_run
from xtune.run.target import NOTE, noted_options, read_note

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(
    re.escape(PREFIX) + r"(?P<layer>.+?)\.(?P<kind>lora_A\.weight|lora_B\.(weight|bias)|lora_embedding_[AB]"
    r"|lora_magnitude_vector|(base_layer\.)?(weight|bias))"
)


@dataclass(frozen=True)
class ConvertedAdapter:
    """An adapter in another layout: its directory, how many layers it has there, the largest of their ranks."""

    path: Path
    layout: Literal["native", "original"]
    modules: int
    rank: int


def convert_adapter(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    layout: Literal["native", "original"],
) -> ConvertedAdapter:
    """Write the LoRA adapter in `adapter` (or a run's) into the new directory `out`, with the names of `layout`.

    base    the base model in its publisher's layout, where it is not where the adapter says

    `out` loads with PEFT on transformers' classes ("native") or on the publisher's code ("original"). Tensors
    keep their type. Raises UsageError where it is no LoRA adapter, does not fit the base, or the base has only
    one layout.
    """
    from safetensors.torch import save_file

    source, out, native = Path(adapter).expanduser(), Path(out).expanduser(), layout == "native"
    if is_run(source):
        source = Run(source).result or source
    config, tensors = read_config(source), read_adapter(source)
    check_place(out, 3 * sum(tensor.nbytes for tensor in tensors.values()))
    published = _published(source, config, base, layout)
    names = Names.of(published)
    came, goes = (names.original, names.native) if native else (names.native, names.original)
    layers = _by_layer(tensors, config, came, goes, source)
    check_targets(config, _adapted(layers), {*map(layer_of, came)}, source)
    saved = saved_layers(config, {*map(layer_of, came)}, source)

    converted: dict[str, Layer] = {}
    kept: set[str] = set()
    for whole, parts in names.parts.items():
        before, after = ([whole], parts) if native else (parts, [whole])
        kept.update(after if saved.intersection(before) else ())
        held = [layers.get(name) for name in before]
        if not any(held):
            continue
        if len(parts) == 1:
            converted[after[0]] = held[0]
            continue
        entry = next(
            entry for entry in published.weights if isinstance(entry, Fused) and entry.original in f"{whole}."
        )
        if native:
            converted |= zip(parts, split_layer(held[0], entry, published.native_config), strict=True)
        else:
            sizes = [names.native[f"{part}.weight"][0] for part in parts]
            check_whole(whole, parts, held, source)
            converted[whole] = join_layers(
                held, sizes, entry, published.native_config, bool(config.get("use_rslora"))
            )

    adapted = _adapted(converted)
    config = config_for(
        config,
        {name: layer.rank for name, layer in adapted.items()},
        {name: layer.alpha for name, layer in adapted.items()},
        kept,
        {*map(layer_of, goes)},
    )
    if not native:
        config = for_old_peft(config)
    elif config.get("task_type") == "SEQ_2_SEQ_LM":  # said of ChatGLM-6B
        config["task_type"] = "CAUSAL_LM"
    content = {
        f"{PREFIX}{name}.{kind}": tensor.clone().contiguous()  # no file holds two views of one tensor
        for name, layer in converted.items()
        for kind, tensor in layer.tensors.items()
    }
    with disk_errors(out), new_directory(out) as work:
        save_file(content, work / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(work / "adapter_config.json", config)
        copy_tokenizer(source, work)
        for name in ("chat_template.jinja", NOTE):
            if (source / name).is_file():
                shutil.copyfile(source / name, work / name)
    return ConvertedAdapter(out, layout, len(adapted), max(layer.rank for layer in adapted.values()))


def _published(source: Path, config: Config, base: str | Path | None, layout: str) -> Layout:
    """The layout of the adapter's base, which must be one of a publisher's."""
    note = read_note(source)
    base = base or note.get("base") or config.get("base_model_name_or_path")
    directory = model_directory(str(base)) if base else None
    if directory is None or not directory.is_dir():
        raise UsageError(
            f"The base model of this adapter is not at {base}."
            if base
            else "This adapter names no base model.",
            where=str(source),
            fix="Say where it is: --base DIR.",
        )
    options = noted_options(note, source)
    if options.rope_scaling and layout == "original":
        raise UsageError(
            "The adapter was trained with RoPE scaling, of which nothing beside it tells its publisher's code.",
            where=str(source),
            fix=f"Merge it: xtune convert merge {source} OUT",
        )
    published = read_layout(directory, options)
    if published is None or not published.weights:
        raise UsageError(
            f"There is nothing to convert: layers of {directory} have the same names in transformers.",
            where=str(source),
            fix="Use the adapter as it is; or name the base in its publisher's layout with --base.",
        )
    return published


def _adapted(layers: dict[str, Layer]) -> dict[str, Layer]:
    return {name: layer for name, layer in layers.items() if layer.rank}


def _by_layer(
    tensors: dict[str, Tensor],
    config: Config,
    shapes: Shapes,
    others: Collection[str],
    source: Path,
) -> dict[str, Layer]:
    """The adapter's tensors by layer, each known to the base and of the shape that it must have there."""
    held: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown = []
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match and f"{match['layer']}.weight" in shapes:
            held[match["layer"]][match["kind"]] = tensor
        else:
            unknown.append((name, f"{match['layer']}.weight" if match else ""))
    if unknown and all(weight in others for _, weight in unknown):
        raise UsageError(
            f"The adapter is in that layout already: it has {some([name for name, _ in unknown])}.",
            where=str(source),
            fix="Use it as it is, or name the other --layout.",
        )
    if unknown:
        raise UsageError(
            f"The base has no layers for these tensors: {some([name for name, _ in unknown])}.",
            where=str(source),
            fix="Name the model it was trained on with --base.",
        )
    layers, wrong = {}, []
    for name, kinds in held.items():
        if any("lora_" in kind for kind in kinds):  # as PEFT calls them since it has base layers
            kinds = {
                re.sub("^(weight|bias)$", r"base_layer.\1", kind): tensor for kind, tensor in kinds.items()
            }
        wrong += faults(name, kinds, shapes, value_for(config, "rank_pattern", name, "r"))
        layers[name] = Layer(kinds, value_for(config, "alpha_pattern", name, "lora_alpha"))
    if wrong:
        raise UsageError(
            f"The adapter does not fit the config.json of its base: {some(wrong)}.",
            where=str(source),
            fix="Name the model it was trained on with --base.",
        )
    if not _adapted(layers):
        raise UsageError("The adapter holds no LoRA factors.", where=str(source), fix="Copy its files again.")
    return layers
