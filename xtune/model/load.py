"""Loading a base model: full precision or quantised to 4 or 8 bits, on the device at hand, strictly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.errors import ResourceError, UsageError, UserError
from xtune.families import read_config, read_layout, read_native_config
from xtune.families.embedded import model_directory
from xtune.families.family import Layout, Options
from xtune.model.devices import choose_device, choose_dtype
from xtune.model.libraries import import_libraries
from xtune.terminal import loading_shown, quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(
    path: str | Path,
    *,
    dtype: str = "auto",
    bits: int | None = None,
    attention: str = "auto",
    options: Options = Options(),  # noqa: B008 (frozen)
    double_quantization: bool = True,
    device: str | None = None,
) -> PreTrainedModel:
    """A causal language model in evaluation mode; or a reward model, of a directory that holds one.

    path        a model directory, or the name of an embedded model
    dtype       of the weights: "float32", "bfloat16", "float16", or "auto" (see choose_dtype)
    bits        None for full precision, 8 for LLM.int8(), 4 for NF4
    attention   "auto", "sdpa", "eager" or "flash_attention_2"
    options     the family, and what config.json does not tell of it
    device      "cpu", "cuda:0"; None for the GPU if there is one, else the CPU

    Raises UsageError for a directory that is no model, or whose weights do not match its config.json to the
    last tensor; ResourceError where it does not fit into memory.
    """
    from safetensors import SafetensorError

    from xtune.families.reward_model import native_class
    from xtune.model.health import check_index
    from xtune.model.rope import stretch_each_sample

    quiet_libraries()
    import_libraries()
    from transformers import BitsAndBytesConfig

    directory = model_directory(str(path))
    read_config(directory)
    check_index(directory)
    if (directory / "adapter_config.json").is_file():  # which transformers would put on the model, unasked
        raise UsageError(
            "The directory holds a model and an adapter.",
            where=str(directory),
            fix="Move the adapter (adapter_config.json, adapter_model.*) to a directory of its own.",
        )
    layout = read_layout(directory, options)
    device = device or choose_device()
    torch_dtype = choose_dtype(dtype)
    quantization = None
    if bits == 4:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch_dtype,
            bnb_4bit_use_double_quant=double_quantization,
        )
    elif bits == 8:
        quantization = BitsAndBytesConfig(load_in_8bit=True)
        # It tells in every layer of every pass that int8 products begin in float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    elif bits is not None:
        raise UsageError(f"bits must be 4, 8 or None, not {bits!r}.", where="load_model")
    loading = {
        "dtype": torch_dtype,
        "device_map": {"": device},
        "quantization_config": quantization,
        "attn_implementation": "sdpa" if attention == "auto" else attention,
        "output_loading_info": True,
        "local_files_only": True,
    }
    try:
        with loading_shown(f"loading {directory.name}"):
            if layout:
                model, info = _load_layout(directory, layout, loading)
            else:
                config = read_native_config(directory, options)
                model, info = native_class(config).from_pretrained(directory, config=config, **loading)
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ResourceError(
                f"The model does not fit into the memory of {device}.",
                where=str(directory),
                fix='Use a smaller model; to train, method.kind = "qlora" takes a quarter of the memory.',
            ) from error
        _say_what_is_damaged(directory, layout, options, error)
        if not isinstance(error, (OSError, ValueError, KeyError, SafetensorError)):
            raise
        raise UsageError(
            f"The model cannot be loaded: {str(error).splitlines()[0]}",
            where=str(directory),
            fix="Check that the directory holds every file its publisher has there.",
        ) from error
    _check_complete(info, directory)
    for module in model.modules():
        # In evaluation mode bitsandbytes repacks 4-bit weights for CPUs with AVX512-BF16, for good, into a form
        # through which no gradient flows: an answered probe would silently spoil the training after it.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    stretch_each_sample(model)
    return model.eval()


def _load_layout(directory: Path, layout: Layout, loading: dict) -> tuple[PreTrainedModel, dict]:
    from xtune.model.attention import OWN, needs_own, register, takes_flash
    from xtune.model.original import load_original

    if loading["attn_implementation"] == "flash_attention_2" and not takes_flash(
        layout.model_class, layout.native_config
    ):
        raise UsageError(
            f"This model cannot run with flash attention: {layout.stock}.",
            where="model.attention",
            fix='Use model.attention = "auto".',
        )
    if needs_own(layout.model_class):
        register()
        loading = {**loading, "attn_implementation": OWN}
    return load_original(directory, layout, **loading)


def _say_what_is_damaged(directory: Path, layout: Layout | None, options: Options, error: Exception) -> None:
    """Raise a UsageError of the files or tensors over which a loader stumbled, which seldom names them."""
    from xtune.model.health import check_tensors, meta_model, read_weights

    weights = read_weights(directory)
    problems = list(weights.problems)
    if not problems:
        try:
            problems = check_tensors(weights, directory, meta_model(directory, layout, options), layout)
        except Exception:  # then it was not the weights
            return
    if problems:
        what = "; ".join(problem.summary.rstrip(".") for problem in problems[:3])
        more = f" … ({len(problems)} in all, see xtune inspect)" if len(problems) > 3 else "."
        raise UsageError(
            f"The model cannot be loaded: {what}{more}", where=problems[0].where, fix=problems[0].fix
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error came of memory running out, on a GPU or on the CPU (where torch says it in words)."""
    import torch

    told = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(one in str(error) for one in told)


def _check_complete(info: dict, directory: Path) -> None:
    """transformers only warns where tensors are missing, and fills them at random."""
    faults = [
        f"{kind}: {', '.join(map(str, sorted(names, key=str)[:3]))}{' …' if len(names) > 3 else ''} ({len(names)})"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if (names := info.get(kind))
    ]
    if faults:
        raise UsageError(
            "The weights do not match config.json: " + "; ".join(faults).replace("_keys", " tensors"),
            where=str(directory),
            fix="Copy the model's files again; all shards must be of the same download.",
        )
