"""Writing a model: in the layout its base came in, so that what loaded the base loads it, or in transformers'.

In the publisher's layout the weights take their old names and are fused again, and config.json and the code files
are the base's own. Where nothing was trained every tensor comes back bit for bit.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtune.convert.rope import rope_entries
from xtune.convert.weights import dtype_on_disk, read_tensors
from xtune.families import read_config, read_layout
from xtune.families.family import Layout, Options
from xtune.families.layout import Fused, join_rows, original_name
from xtune.json_file import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

SHARD = 5_000_000_000  # bytes of a file, at most


def write_model(
    model: PreTrainedModel,
    base: Path,
    directory: Path,
    *,
    options: Options,
    native: bool = False,
) -> None:
    """Write weights and config of a model whose base lies at `base`, into `directory`, which exists.

    native   in transformers' layout, whatever the base has. Raises UsageError where no class of transformers
             computes what the model does; or, in the publisher's, his code has no such RoPE scaling
    """
    layout = read_layout(base, options)
    if native or layout is None:
        _write_native(model, directory)
        return
    published = read_config(base)
    config = published | rope_entries(base, options, model.config)
    state = {name: tensor for name, tensor in model.state_dict().items() if not _is_tied(name, model)}
    tensors = original_tensors(state, layout, model.config)
    _write_shards(_with_ignored(tensors, base, layout), directory)
    shutil.copyfile(base / "config.json", directory / "config.json")
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != dtype_on_disk(base):
        config["torch_dtype"] = dtype
    if (rows := model.config.vocab_size) != layout.native_config.vocab_size:  # for added tokens
        config |= dict.fromkeys({"vocab_size", "padded_vocab_size"} & config.keys(), rows)
    if config != published:
        write_json(directory / "config.json", config)
    for file in base.glob("*.py"):
        shutil.copyfile(file, directory / file.name)


def original_tensors(
    state: Mapping[str, Tensor], layout: Layout, config: Any
) -> Iterator[tuple[str, Tensor]]:
    """Tensors by their native names to those of the publisher's layout, one at a time."""
    fused = {part: entry for entry in layout.weights if isinstance(entry, Fused) for part in entry.native}
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        old = original_name(name, layout.weights)
        part = next((part for part in fused if part in name), None)
        if part is None:
            yield old, tensor
            continue
        parts = waiting.setdefault(old, {})
        parts[part] = tensor
        entry = fused[part]
        if len(parts) == len(entry.native):
            del waiting[old]
            yield old, join_rows(tuple(parts[name] for name in entry.native), entry.rows, config)


def _with_ignored(
    tensors: Iterable[tuple[str, Tensor]], base: Path, layout: Layout
) -> Iterator[tuple[str, Tensor]]:
    """And those of the base that no native model has, such as tables of rotary embeddings."""
    yield from tensors
    yield from read_tensors(base, lambda name: any(re.search(pattern, name) for pattern in layout.ignored))


def _is_tied(name: str, model: PreTrainedModel) -> bool:
    return name == "lm_head.weight" and model.config.tie_word_embeddings


def _write_native(model: PreTrainedModel, directory: Path) -> None:
    from transformers import GenerationConfig

    if hasattr(model, "to_stock"):  # one of our classes
        model = model.to_stock()
    # The base's may not pass the check on saving; it is written afterwards as it is.
    model.generation_config = GenerationConfig()
    model.save_pretrained(directory, max_shard_size=SHARD)
    add_older_names(directory / "config.json")


def add_older_names(file: Path) -> None:
    """transformers before 5 reads rotary settings and the type by other names, and else takes its defaults."""
    config = read_json(file)
    rope = dict(config.get("rope_parameters") or {})
    theta, fraction = rope.pop("rope_theta", None), rope.pop("partial_rotary_factor", None)
    older = {
        "rope_theta": theta,
        "partial_rotary_factor": fraction,
        "rope_scaling": None if rope.get("rope_type", "default") == "default" else rope,
        "torch_dtype": config.get("dtype"),
    }
    write_json(file, {**config, **{key: value for key, value in older.items() if value is not None}})


def _write_shards(tensors: Iterable[tuple[str, Tensor]], directory: Path) -> None:
    """model.safetensors, or shards of it with their index; no more than one shard is held in memory."""
    from safetensors.torch import save_file

    shard: dict[str, Tensor] = {}
    shards: list[list[str]] = []
    sizes: list[int] = []

    def write() -> None:
        save_file(shard, directory / f"{len(shards)}.tmp", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD:
            write()
            size = 0
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
        sizes.append(tensor.nbytes)
    write()
    if len(shards) == 1:
        (directory / "0.tmp").rename(directory / "model.safetensors")
        return
    names = [f"model-{index:05}-of-{len(shards):05}.safetensors" for index in range(1, len(shards) + 1)]
    for index, name in enumerate(names):
        (directory / f"{index}.tmp").rename(directory / name)
    index = {tensor: name for name, held in zip(names, shards, strict=True) for tensor in held}
    content = {"metadata": {"total_size": sum(sizes)}, "weight_map": index}
    write_json(directory / "model.safetensors.index.json", content)
