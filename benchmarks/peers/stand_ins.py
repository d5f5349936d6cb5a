"""Stands in for packages that text does not need and that come for CUDA only."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys


def without_operators() -> None:
    """Let torchvision and torchaudio be imported beside a CPU build of torch, where neither finds its operators."""
    import torch

    if torch.version.cuda is None:
        torch.library.register_fake = lambda *_, **__: lambda function: function
        sys.modules["torchaudio"] = importlib.util.module_from_spec(
            importlib.util.spec_from_loader("torchaudio", loader=None)
        )
