"""A whole model in transformers' layout, made of whatever the user points at, for programs that read no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from xtune.convert.disk import check_place
from xtune.convert.export import export
from xtune.convert.merge import merge
from xtune.convert.weights import size_on_disk
from xtune.errors import UsageError
from xtune.families import read_layout
from xtune.families.embedded import model_directory
from xtune.model.health import read_weights
from xtune.run.target import Target, find_target


@contextmanager
def native_model(path: str | Path, out: Path, *, base: str | Path | None = None) -> Iterator[Path]:
    """The directory of a model without adapter, in transformers' layout, as long as the block lasts.

    path   a model, an adapter, a run
    out    what will be written: a copy that has to be made first lies beside it

    Raises UsageError for what cannot be one, or an `out` that is there already.
    """
    target = generator(path, base=base)
    directory = model_directory(target.base)
    check_place(out, size_on_disk(directory))
    if target.adapter is None and read_layout(directory, target.options) is None:
        yield directory
        return
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as work:
        write_native(path, Path(work) / "model", base=base)
        yield Path(work) / "model"


def write_native(path: str | Path, out: Path, *, base: str | Path | None = None) -> str | None:
    """Write the model at `path`, which is not whole or not in transformers' layout yet, in it. Returns what it does
    otherwise than its publisher's code, if anything."""
    target = generator(path, base=base)
    layout = read_layout(model_directory(target.base), target.options)
    if layout is not None:
        return export(path, out, "native", base=base)
    merge(path, out, base=base, native=True)
    return None


def weight_files(directory: Path) -> tuple[Path, ...]:
    """Of a model directory. Raises UsageError where one is missing or damaged."""
    weights = read_weights(directory)
    for problem in weights.problems:
        raise UsageError(problem.summary, where=problem.where, fix=problem.fix)
    return weights.files


def generator(path: str | Path, *, base: str | Path | None = None) -> Target:
    """What `path` is. Raises UsageError for a reward model, which writes no answers."""
    target = find_target(str(path), base=None if base is None else str(base))
    if target.reward:
        raise UsageError(
            "This is a reward model: it scores answers, and these programs are for models that write them.",
            where=str(path),
            fix="Load what xtune convert merge makes of it with AutoModelForSequenceClassification.",
        )
    return target
