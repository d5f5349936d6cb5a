"""Fine-tune language models: a short recipe binds a model, a method and your data.

The names below are the public Python API. Each is imported when first used, so `import xtune` is fast and
loads neither torch nor transformers.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# PyTorch reads it when it is imported. Rows are of all lengths: blocks of GPU memory that cannot grow leave gaps, of a
# quarter of the memory (measured with a 7B model). An older name of it, if the user set that, goes before.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

# Nor does transformers then fetch programs from the hub, as it does where the package `kernels` is installed.
os.environ.setdefault("USE_HUB_KERNELS", "NO")

if TYPE_CHECKING:
    from xtune.chat.reward import load_reward_model as load_reward_model
    from xtune.convert.merge import merge as merge
    from xtune.data.encoding.encode import encode as encode
    from xtune.data.read import read_data as read_data
    from xtune.errors import DataError as DataError
    from xtune.errors import RecipeError as RecipeError
    from xtune.errors import ResourceError as ResourceError
    from xtune.errors import TrainingError as TrainingError
    from xtune.errors import UsageError as UsageError
    from xtune.errors import UserError as UserError
    from xtune.families.tokenizer import load_tokenizer as load_tokenizer
    from xtune.messages import Document as Document
    from xtune.messages import Labelled as Labelled
    from xtune.messages import Message as Message
    from xtune.messages import Pair as Pair
    from xtune.messages import Prompt as Prompt
    from xtune.messages import Sample as Sample
    from xtune.model.load import load_model as load_model
    from xtune.recipe.load import load_recipe as load_recipe
    from xtune.templates.render import render as render
    from xtune.training.train import train as train

    __version__: str

_MODULE_OF = {
    "load_recipe": "xtune.recipe.load",
    "train": "xtune.training.train",
    "load_model": "xtune.model.load",
    "load_reward_model": "xtune.chat.reward",
    "load_tokenizer": "xtune.families.tokenizer",
    "render": "xtune.templates.render",
    "encode": "xtune.data.encoding.encode",
    "read_data": "xtune.data.read",
    "merge": "xtune.convert.merge",
    "Message": "xtune.messages",
    "Sample": "xtune.messages",
    "Pair": "xtune.messages",
    "Labelled": "xtune.messages",
    "Prompt": "xtune.messages",
    "Document": "xtune.messages",
    "UserError": "xtune.errors",
    "DataError": "xtune.errors",
    "RecipeError": "xtune.errors",
    "ResourceError": "xtune.errors",
    "TrainingError": "xtune.errors",
    "UsageError": "xtune.errors",
}

__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = _version()
    elif name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module 'xtune' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("xtune")
    except PackageNotFoundError:  # a clone on PYTHONPATH, not installed
        return "0+unknown"
