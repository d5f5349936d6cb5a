"""From a recipe to a finished run."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtune.convert.layout import write_model
from xtune.convert.standalone import write_companions
from xtune.data.batches.draw import hold_out, make_draw
from xtune.data.batches.plan import Plan, make_plan
from xtune.data.dataset import Dataset, load_dataset
from xtune.errors import ResourceError
from xtune.families import find_family
from xtune.families.choose_template import Choice, choose_template
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.families.tokenizer import load_tokenizer
from xtune.home import is_disk_full, new_directory
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Full, Qlora, Recipe
from xtune.run.curve import draw_loss
from xtune.run.directory import Run, create_run, new_run_path, open_run
from xtune.run.target import Target, write_note
from xtune.templates.template import Template
from xtune.terminal import messages, quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Preparation:
    """All that a run needs besides the weights."""

    tokenizer: PreTrainedTokenizerFast
    choice: Choice
    dataset: Dataset
    plan: Plan
    held_out: list[int]

    @property
    def template(self) -> Template:
        """The chat template."""
        return self.choice.template


def prepare(recipe: Recipe) -> Preparation:
    """Tokenizer, template, encoded data and plan of a recipe. Raises UsageError and DataError."""
    from xtune.training.optimizers import check_optimizer

    quiet_libraries()
    check_optimizer(recipe.train.optimizer)
    model = recipe.model
    tokenizer = load_tokenizer(model.path, family=model.family)
    choice = choose_template(
        model.template,
        model_directory(model.path),
        family=model.family,
        variables=model.template_variables,
    )
    data, seed = recipe.data, recipe.train.seed
    dataset = load_dataset(data, tokenizer, choice.template, recipe.train.objective)
    held_out = hold_out(dataset.groups, data.held_out, seed)
    draw = make_draw(data.sources, dataset.source_of, held_out, seed)
    plan = make_plan(recipe.train, data, dataset.lengths, draw)
    return Preparation(tokenizer, choice, dataset, plan, np.flatnonzero(held_out).tolist())


def describe(recipe: Recipe, preparation: Preparation) -> str:
    """What a run of this recipe would do, for `--dry-run` and the start of a run."""
    dataset, plan = preparation.dataset, preparation.plan
    tokens, learnt = int(dataset.lengths.sum()), int(dataset.loss_lengths.sum())
    method = recipe.method
    how = (
        "all weights"
        if isinstance(method, Full)
        else f"{method.kind}, rank {method.rank} on {method.targets}"
    )
    return "\n".join(
        [
            f"model    {recipe.model.path}, template {preparation.choice}",
            f"method   {how}",
            f"data     {len(dataset)} samples, {tokens} tokens, {learnt} of them with loss ({learnt / tokens:.0%})",
            *(f"         {line}" for line in dataset.summary.splitlines()),
            *([f"held out {len(preparation.held_out)} samples"] if preparation.held_out else []),
            f"train    {plan}, lr {recipe.train.lr:g} {recipe.train.schedule}",
        ]
    )


def train(recipe: Recipe, *, run_dir: str | Path | None = None) -> Run:
    """Train as the recipe says and return the run, in `run_dir` or a new directory under runs/.

    Raises UsageError and DataError for what the recipe names, ResourceError where memory or disk run out. The
    directory is made once data and model are loaded, so that a refused recipe leaves nothing behind.
    """
    path = new_run_path(recipe, Path(run_dir) if run_dir else None)
    preparation = prepare(recipe)
    messages().print(describe(recipe, preparation), soft_wrap=True, markup=False)
    model = _trainable_model(recipe)
    return _train(recipe, preparation, model, create_run(recipe, path), None)


def resume(run_dir: str | Path, overrides: dict | None = None) -> Run:
    """Continue a run from its newest whole checkpoint, or from the start where it has none."""
    run = open_run(Path(run_dir))
    from xtune.training.checkpoints import newest_checkpoint, remove_partial

    recipe = load_recipe(run.recipe_file, overrides or {})
    preparation = prepare(recipe)
    messages().print(describe(recipe, preparation), soft_wrap=True, markup=False)
    remove_partial(run.checkpoints)
    return _train(recipe, preparation, _trainable_model(recipe), run, newest_checkpoint(run.checkpoints))


def _train(recipe: Recipe, preparation: Preparation, model, run: Run, checkpoint: Path | None) -> Run:
    from xtune.training.checkpoints import WriteManifest
    from xtune.training.held_out import HeldOutLoss
    from xtune.training.metrics import Metrics
    from xtune.training.probe import answer_probes
    from xtune.training.sft import MicroBatches, make_trainer

    dataset, plan, tokenizer = preparation.dataset, preparation.plan, preparation.tokenizer
    messages().print(
        f"run      {run.path}" + (f", from {checkpoint.name}" if checkpoint else ""), soft_wrap=True
    )
    run.write_json("data_report.json", dataset.full_report)
    before = _probe_before(recipe, run, model, preparation)
    batches = MicroBatches(dataset, plan, recipe.data.packing, tokenizer.pad_token_id)
    metrics = Metrics(run.path / "metrics.jsonl", plan, dataset.loss_lengths)
    held_out = HeldOutLoss(dataset, preparation.held_out, batches, run.path / "held_out.jsonl")
    trainer = make_trainer(recipe, model, batches, run.checkpoints, [metrics, held_out, WriteManifest()])
    with _clear_errors(run, trainer):
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            metrics.close()
        _save_result(recipe, run, model, preparation)
    after = answer_probes(recipe.probe, model, tokenizer, preparation.template)
    run.write_json("probe.json", _probe_rows(recipe, before, after))
    draw_loss(run)
    return run


def _trainable_model(recipe: Recipe) -> PreTrainedModel:
    """The base as the method wants it, with a new adapter where it has one; the seed decides its start."""
    from transformers import set_seed

    from xtune.model.adapters import attach_adapter
    from xtune.model.attention import use_packed_attention
    from xtune.model.load import load_model

    set_seed(recipe.train.seed)
    method, options = recipe.method, recipe.model
    full = isinstance(method, Full)
    qlora = isinstance(method, Qlora)
    model = load_model(
        options.path,
        # Small steps on bfloat16 weights are rounded away: all of them are trained in float32.
        dtype="float32" if full and options.dtype == "auto" else options.dtype,
        bits=method.bits if qlora else None,
        attention=options.attention,
        options=Options.of(options),
        double_quantization=qlora and method.double_quantization,
    )
    if recipe.data.packing:
        use_packed_attention(model, options.attention)
    if full:
        return model
    family = find_family(model_directory(options.path), options.family)
    return attach_adapter(model, method, family.lora_targets)


def _probe_before(recipe: Recipe, run: Run, model, preparation: Preparation) -> list[str]:
    """The untrained answers; a resumed run has them already."""
    from xtune.training.probe import answer_probes

    rows = run.read_json("probe.json") or []
    if [row["prompt"] for row in rows] == recipe.probe.prompts:
        return [row["before"] for row in rows]
    before = answer_probes(recipe.probe, model, preparation.tokenizer, preparation.template)
    run.write_json("probe.json", _probe_rows(recipe, before, [None] * len(before)))
    return before


def _probe_rows(recipe: Recipe, before: list[str], after: list) -> list[dict]:
    rows = zip(recipe.probe.prompts, before, after, strict=True)
    return [{"prompt": prompt, "before": old, "after": new} for prompt, old, new in rows]


def _save_result(recipe: Recipe, run: Run, model, preparation: Preparation) -> None:
    """The adapter or the model, with tokenizer, template and what it was trained on."""
    from xtune.model.adapters import save_adapter

    tokenizer, template = preparation.tokenizer, preparation.template
    full = isinstance(recipe.method, Full)
    target = run.path / ("model" if full else "adapter")
    if target.is_dir():  # a finished run that was resumed for more steps
        shutil.rmtree(target)
    with new_directory(target) as directory:
        tokenizer.chat_template = template.standalone
        options = Options.of(recipe.model)
        if full:
            write_model(model, model_directory(recipe.model.path), directory, options=options)
            write_companions(Target(recipe.model.path, None, template, options), tokenizer, directory)
        else:
            save_adapter(model, directory)
            tokenizer.save_pretrained(directory)
            write_note(directory, base=recipe.model.path, template=template, options=options)


@contextmanager
def _clear_errors(run: Run, trainer):
    """Out of memory, a full disk and Ctrl-C, each with the way on."""
    from xtune.model.load import is_out_of_memory
    from xtune.training.checkpoints import newest_checkpoint, remove_partial

    try:
        yield
    except KeyboardInterrupt:
        messages().print(f"Stopped. Continue with: xtune train --resume {run.path}", soft_wrap=True)
        raise
    except Exception as error:
        step = trainer.state.global_step
        if is_out_of_memory(error):
            raise ResourceError(
                f"Out of memory in step {step + 1}.",
                where=str(run.path),
                fix="Lower train.micro_batch_size or data.max_length, or set train.gradient_checkpointing = True.",
            ) from error
        if not is_disk_full(error):
            raise
        remove_partial(run.checkpoints)
        last = newest_checkpoint(run.checkpoints)
        raise ResourceError(
            f"The disk is full: what step {step} left could not be written. "
            + (f"The last whole checkpoint is {last.name}." if last else "There is no earlier checkpoint."),
            where=str(run.path),
            fix=f"Free some space, then: xtune train --resume {run.path}",
        ) from error
