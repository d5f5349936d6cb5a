"""What a run leaves to be used: an adapter or a model, of its end or of one of its checkpoints."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from xtune.convert.layout import write_model
from xtune.convert.reward import write_trained
from xtune.convert.standalone import write_companions
from xtune.errors import UsageError
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.home import new_directory
from xtune.model.reward import pad_beside
from xtune.recipe.load import load_recipe
from xtune.recipe.objective_schema import Reward
from xtune.recipe.schema import Full, Recipe
from xtune.run.directory import Run, is_run
from xtune.run.target import Target, write_note
from xtune.templates.template import Template
from xtune.terminal import quiet_libraries
from xtune.training.start import tokenizer_and_template, trainable_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def save_result(
    recipe: Recipe,
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
) -> None:
    """Write `adapter` or `model` into a folder, with tokenizer, template and what it was trained on."""
    from xtune.model.adapters import save_adapter

    full = isinstance(recipe.method, Full)
    target = folder / ("model" if full else "adapter")
    for left in folder.glob(f".{target.name}-*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with new_directory(
        target, replace=True
    ) as directory:  # of a finished run that was resumed for more steps
        tokenizer.chat_template = template.standalone
        options = Options.of(recipe.model)
        objective = recipe.train.objective
        reward = isinstance(objective, Reward)
        trained = Target(
            recipe.model.path, None, template, options, reward, objective.read_at if reward else None
        )
        if full and reward:
            write_trained(model, trained, tokenizer, directory)
        elif full:
            write_model(model, model_directory(recipe.model.path), directory, options=options)
            write_companions(trained, tokenizer, directory)
        else:
            save_adapter(model, directory)
            if reward:
                pad_beside(tokenizer, template, trained.read_at)
            tokenizer.save_pretrained(directory)
            quantised = getattr(recipe.method, "bits", None)
            write_note(
                directory,
                base=recipe.model.path,
                template=template,
                options=options,
                read_at=trained.read_at,
                # what began with LoftQ is saved as what stands beside the weights that were not quantised
                bits=None if getattr(recipe.method, "init", None) == "loftq" else quantised,
            )


@contextmanager
def result_of(path: str) -> Iterator[str]:
    """What to convert in place of `path`: of a checkpoint within a run, the result that the run would leave there, for
    as long as the block lasts; else `path` itself.

    Raises UsageError for a checkpoint that is not whole.
    """
    checkpoint = Path(path).resolve()
    run = Run(checkpoint.parents[1]) if len(checkpoint.parents) > 1 else None
    if not re.fullmatch(r"checkpoint-\d+", checkpoint.name) or not is_run(run.path):
        yield path
        return
    quiet_libraries()
    from xtune.training.checkpoints import fault_of

    if fault := fault_of(checkpoint):
        raise UsageError(
            f"This checkpoint is damaged: {fault}.",
            where=path,
            fix=f"Name another one in {checkpoint.parent}.",
        )
    recipe = load_recipe(run.recipe_file)
    tokenizer, choice = tokenizer_and_template(recipe.model)
    model = trainable_model(recipe)
    _read_weights(model, checkpoint, full=isinstance(recipe.method, Full))
    with TemporaryDirectory(prefix=".result-", dir=run.path) as folder:
        save_result(recipe, Path(folder), model, tokenizer, choice.template)
        (result,) = Path(folder).iterdir()
        yield str(result)


def _read_weights(model: PreTrainedModel, checkpoint: Path, *, full: bool) -> None:
    from peft.utils import set_peft_model_state_dict
    from safetensors.torch import load_file

    from xtune.model.adapters import read_adapter

    if full:
        lacking, unknown = set(model.state_dict()) - model.all_tied_weights_keys.keys(), []
        for file in checkpoint.glob("*.safetensors"):  # a model's shards
            tensors = load_file(file)
            unknown += model.load_state_dict(tensors, strict=False).unexpected_keys
            lacking -= tensors.keys()
    else:
        tensors = read_adapter(checkpoint)
        found = set_peft_model_state_dict(model, tensors)
        unknown, lacking = found.unexpected_keys, [name for name in found.missing_keys if "lora_" in name]
    if unknown or lacking:
        raise UsageError(
            "The checkpoint's weights are not those of the run's recipe.",
            where=str(checkpoint),
            fix="Put the run's recipe.py back as the run wrote it.",
        )
