"""The chat formats that come with xtune: what their Jinja files do not tell. The third of xtune's lists."""

from __future__ import annotations

from typing import Any

_CHATML: dict[str, Any] = {
    "control_tokens": ("<|im_start|>", "<|im_end|>"),
    "stop_tokens": ("<|im_end|>",),
}

TEMPLATES: dict[str, dict[str, Any]] = {
    "chatml": _CHATML,
    "smollm2": _CHATML,
}
"""The fields of Template beside name and source, by the name of the .jinja file in this directory."""

ALIASES: dict[str, str] = {}
"""Other names of formats, as XTuner's PROMPT_TEMPLATE has them, where they mean the same model."""
