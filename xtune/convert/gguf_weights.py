"""Weights in a GGUF file. They are read, changed and written one by one, so memory is that of the largest.

Names come from the gguf package's table; what llama.cpp wants otherwise than transformers is here: the order of rotary
dimensions, and Llama 3's scaling of them as a table of factors.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import safe_open

from xtune.convert.native import weight_files
from xtune.errors import UsageError
from xtune.model.health import read_pickled
from xtune.terminal import progress

if TYPE_CHECKING:
    import gguf
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedConfig

Type = Literal["f16", "bf16", "q8_0", "f32"]


def rope_of(config: PreTrainedConfig) -> dict[str, Any]:
    """Its rotary embeddings, as transformers 5 has them."""
    return getattr(config, "rope_parameters", None) or {}


def head_size(config: PreTrainedConfig) -> int:
    """Dimensions of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def write_weights(
    writer: gguf.GGUFWriter,
    directory: Path,
    config: PreTrainedConfig,
    architecture: gguf.MODEL_ARCH,
    type: Type,
) -> None:
    """The header with all names and shapes, then the weights in the order in which they lie on the disk."""
    import gguf
    import numpy as np

    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    files = weight_files(directory)
    shapes = {}
    for name, shape in _shapes(files):
        if new := _new_name(name, names, config, directory):
            shapes[name] = new, shape
    factors = _rope_factors(config)
    for new, shape in [*(("rope_freqs.weight", table.shape) for table in factors), *shapes.values()]:
        kind = _stored_as(shape, type)
        on_disk = gguf.quant_shape_to_byte_shape(shape, kind) if kind.name in ("BF16", "Q8_0") else shape
        dtype = np.dtype({"F16": np.float16, "F32": np.float32}.get(kind.name, np.uint8))
        writer.add_tensor_info(new, on_disk, dtype, math.prod(on_disk) * dtype.itemsize, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for table in factors:
        writer.write_tensor_data(table)
    with progress("writing", len(shapes), "tensors") as advance:
        for name, tensor in _tensors(files, shapes):
            writer.write_tensor_data(_encode(_reordered(name, tensor, config), type, name))
            advance(1)


def _shapes(files: Iterable[Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, file by file."""
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                yield from (
                    (name, tuple(tensors.get_slice(name).get_shape())) for name in sorted(tensors.keys())
                )
        else:
            yield from ((name, tuple(tensor.shape)) for name, tensor in sorted(read_pickled(file).items()))


def _tensors(files: Iterable[Path], wanted: Container[str]) -> Iterator[tuple[str, Tensor]]:
    """Those wanted, one at a time, in the order of _shapes."""
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                yield from (
                    (name, tensors.get_tensor(name)) for name in sorted(tensors.keys()) if name in wanted
                )
        else:
            tensors = read_pickled(file, "cpu")
            yield from ((name, tensors[name]) for name in sorted(tensors) if name in wanted)


def _new_name(name: str, names: gguf.TensorNameMap, config: PreTrainedConfig, directory: Path) -> str | None:
    """llama.cpp's name of a tensor; None for one that it does without."""
    if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings):
        return None
    new = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if new is None:
        raise UsageError(f"llama.cpp has no tensor for {name}.", where=str(directory))
    return new


def _stored_as(shape: tuple[int, ...], type: Type) -> gguf.GGMLQuantizationType:
    """Vectors are float32, as llama.cpp wants them. A row that blocks of 32 do not fill stays in 16 bits."""
    import gguf

    if len(shape) < 2:
        return gguf.GGMLQuantizationType.F32
    if type == "q8_0" and shape[-1] % 32:
        return gguf.GGMLQuantizationType.F16
    return gguf.GGMLQuantizationType[type.upper()]


def _encode(tensor: Tensor, type: Type, name: str) -> np.ndarray:
    import gguf
    import numpy as np

    kind = _stored_as(tuple(tensor.shape), type)
    values = tensor.float().numpy()
    if kind.name == "F16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.isinf(half).any():
            raise UsageError(
                f"The weights of {name} are too large for f16, or are not numbers.", fix="Use --type bf16."
            )
        return half
    return gguf.quantize(values, kind)


def _reordered(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    """Rows of queries and keys of LLaMA: llama.cpp turns dimensions 2i and 2i+1 of a head together, transformers i and
    i + half. Its Qwen turns them as transformers does, and both turn ChatGLM's in pairs."""
    kind = name.rsplit(".", 2)[-2]
    if config.model_type != "llama" or kind not in ("q_proj", "k_proj"):
        return tensor
    heads = config.num_attention_heads if kind == "q_proj" else config.num_key_value_heads
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape).contiguous()


def _rope_factors(config: PreTrainedConfig) -> list[np.ndarray]:
    """By what Llama 3's scaling divides each frequency, [head size / 2]; nothing for other models."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = rope_of(config)
    if rope.get("rope_type") != "llama3":
        return []
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    size = head_size(config)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float) / size)
    return [(plain / scaled).numpy()]
