"""Writing a model, or a run, in its publisher's layout or in transformers' own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from xtune.convert.disk import check_place, disk_errors
from xtune.convert.layout import write_model
from xtune.convert.merge import merge
from xtune.convert.reward import export_reward
from xtune.convert.standalone import check_added_tokens, write_companions
from xtune.convert.weights import dtype_on_disk, size_on_disk
from xtune.errors import UsageError
from xtune.families import read_layout
from xtune.families.embedded import model_directory
from xtune.families.tokenizer import load_tokenizer
from xtune.home import new_directory
from xtune.model.load import load_model
from xtune.run.target import find_target


def export(
    path: str | Path,
    out: str | Path,
    layout: Literal["original", "native"],
    *,
    base: str | Path | None = None,
) -> str | None:
    """Write the model at `path` (a model, an adapter, a run) into the new directory `out`.

    layout   "original": the publisher's, with its config.json, code and tokenizer files; "native":
             transformers' own, which needs no code beside it
    base     for an adapter: its base model, where that is not where it was; for a model in native layout that
             is to become original: a directory of the publisher's, whose layout and files it gets

    Weights keep their type, and where nothing was trained they come out bit for bit. Returns what the native
    model does otherwise than the publisher's, if anything. Raises UsageError where there is no such layout.
    """
    out, native = Path(out).expanduser(), layout == "native"
    target = find_target(str(path), base=None if base is None else str(base))
    pattern = model_directory(target.base if target.adapter or base is None else str(base))
    published = read_layout(pattern, target.options)
    if published is None:
        other = "original" if native else "native"
        raise UsageError(
            f"This model has no {other} layout: {pattern} is in transformers' own already.",
            where="--layout",
            fix="xtune convert merge makes one model of an adapter and its base."
            if target.adapter
            else "Use the directory as it is, or name one of the publisher's with --base.",
        )
    if target.adapter:
        merge(path, out, base=base, native=native)
    elif target.reward:
        export_reward(target, out, pattern, original=not native)
    else:
        source = model_directory(target.base)
        check_place(out, size_on_disk(source))
        companions = target if native else replace(target, base=str(pattern))
        tokenizer = load_tokenizer(target.base, family=target.options.family)
        check_added_tokens(companions, tokenizer, native=native)
        with disk_errors(out), new_directory(out) as work:
            model = load_model(source, dtype=dtype_on_disk(source), device="cpu", options=target.options)
            write_model(model, pattern, work, options=target.options, native=native)
            write_companions(companions, tokenizer, work, native=native)
    return published.stock if native and published.stock is not True else None
