"""LoRA adapters between the two layouts: trained on a publisher's own code, and on transformers' classes.

Where a layer is only renamed, its factors are as well. A fused layer's weight is [W_q; W_k; W_v] + s B A, so
    import    A goes to all three, and B is cut as the weight is
    export    the three A's are one, as after an import: B is joined again; else the rank is the sum of theirs:
              s [B_q 0 0; 0 B_k 0; 0 0 B_v] [A_q; A_k; A_v]
Both are exact. So are they for DoRA (arXiv:2402.09353), whose norms are of single rows, and for biases.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xtune.convert.disk import check_place, disk_errors
from xtune.convert.standalone import _copy_tokenizer
from xtune.convert.weights import write_json
from xtune.errors import UsageError
from xtune.families import read_layout
from xtune.families.embedded import model_directory
from xtune.families.family import Layout, Options
from xtune.families.layout import Fused, join_rows, original_name, split_rows
from xtune.home import new_directory
from xtune.model.adapters import ADAPTER_TENSOR, adapter_file, read_adapter
from xtune.run.target import NOTE

if TYPE_CHECKING:
    from torch import Tensor

Config = dict[str, Any]
"""An adapter_config.json."""

# What PEFT makes of these depends on whole layers, or on their names inside of values.
_REFUSED = ("target_parameters", "layer_replication", "trainable_token_indices", "use_qalora", "use_bdlora")
_BASE_UNCHANGED = (True, False, None, "gaussian", "orthogonal", "eva")  # of the ways to begin an adapter


@dataclass(frozen=True)
class ConvertedAdapter:
    """An adapter in another layout.

    path      its directory
    layout    "native" or "original"
    layers    how many layers it adapts, there
    rank      the largest of theirs
    """

    path: Path
    layout: Literal["native", "original"]
    layers: int
    rank: int


@dataclass(frozen=True)
class _Layer:
    """What an adapter has for one layer: its tensors by the ends of their names; of LoRA, scale = s above."""

    tensors: dict[str, Tensor]
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Of LoRA; 0 where there is none, but a bias or a whole weight."""
        ranks = (self.tensors[kind].shape[0] for kind in ("lora_A.weight", "lora_embedding_A") if kind in self.tensors)
        return next(ranks, 0)
