"""From a recipe to a finished run."""

from __future__ import annotations

import hashlib
import math
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtune.convert.card import write_card_of_run
from xtune.convert.rope import check_rope
from xtune.convert.standalone import check_added_tokens
from xtune.data.batches.draw import hold_out, make_draw
from xtune.data.batches.plan import Plan, make_plan
from xtune.data.cache_key import cache_key
from xtune.data.dataset import Dataset, load_dataset
from xtune.errors import RecipeError, ResourceError
from xtune.families.choose_template import Choice
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.home import is_disk_full
from xtune.ranks import rank, ranks
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Full, Recipe
from xtune.recipe.write import recipe_source
from xtune.run.curve import draw_loss
from xtune.run.directory import (
    Run,
    alone_in,
    check_seen,
    create_run,
    new_run_path,
    open_run,
    versions,
    write_recipe,
)
from xtune.run.target import Target
from xtune.templates.template import Template
from xtune.terminal import messages, quiet_libraries
from xtune.training.data_files import check_unchanged, record_of
from xtune.training.ending import recorded
from xtune.training.group import joined, lost, of_first, together, way_on
from xtune.training.start import check_base, tokenizer_and_template, trainable_model
from xtune.training.stopping import Stopped, stoppable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Preparation:
    """All that a run needs besides the weights."""

    tokenizer: PreTrainedTokenizerFast
    choice: Choice
    dataset: Dataset
    plan: Plan
    held_out: list[int]
    processes: int

    @property
    def template(self) -> Template:
        """The chat template."""
        return self.choice.template

    @property
    def needed(self) -> list[int]:
        """Numbers of the samples that the run reads, those held out among them."""
        steps = (self.plan.step(step) for step in range(self.plan.steps))
        return sorted({*self.held_out, *(sample for step in steps for sample in step)})


def prepare(recipe: Recipe, processes: int | None = None) -> Preparation:
    """Tokenizer, template, encoded data and plan of a recipe. Raises UsageError and DataError.

    processes   that are to train; default: those that run
    """
    from xtune.training.optimizers import check_optimizer
    from xtune.training.report_to import check_report_to

    quiet_libraries()
    processes = processes or ranks()
    sharing = recipe.train.sequence_parallel
    if processes % sharing:
        raise RecipeError(
            f"{processes} processes cannot be parted into groups of {sharing} that share rows.",
            where="train.sequence_parallel",
            fix=f"Start it with --nproc {sharing}, or a multiple.",
        )
    if processes > 1 and recipe.train.on_oom == "adapt":
        raise RecipeError(
            'on_oom = "adapt" goes with one process: others would wait for the one whose step begins anew.',
            where="train.on_oom",
            fix='Use "stop", which tells what helps.',
        )
    check_report_to(recipe.train.report_to)
    check_optimizer(recipe.train.optimizer, recipe.method)
    if rewards := getattr(recipe.train.objective, "rewards", None):
        from xtune.training.rewards import check_rewards

        check_rewards(rewards)
    if recipe.train.deepspeed:
        from xtune.training.deepspeed import deepspeed_config, make_ready

        make_ready(recipe.train.deepspeed)
    model = recipe.model
    if isinstance(recipe.method, Full):
        check_rope(model_directory(model.path), Options.of(model))
    tokenizer, choice = tokenizer_and_template(recipe.model)
    if isinstance(recipe.method, Full) and model.added_tokens:
        check_added_tokens(Target(model.path, None, choice.template, Options.of(model)), tokenizer)
    check_base(recipe, tokenizer)
    data, seed = recipe.data, recipe.train.seed
    dataset = load_dataset(data, tokenizer, choice.template, recipe.train.objective.kind)
    held_out = hold_out(dataset.groups, data.held_out, seed)
    draw = make_draw(data.sources, dataset.source_of, held_out, seed)
    plan = make_plan(recipe.train, data, dataset.lengths, draw, processes // sharing)
    if recipe.train.deepspeed:  # refuses what does not agree with the recipe
        passes = math.ceil(plan.accumulation / (processes // sharing))
        deepspeed_config(recipe, passes, on_gpu=False, processes=processes)
    return Preparation(tokenizer, choice, dataset, plan, np.flatnonzero(held_out).tolist(), processes)


def describe(recipe: Recipe, preparation: Preparation) -> str:
    """What a run of this recipe would do, for `--dry-run` and the start of a run."""
    dataset, plan, processes = preparation.dataset, preparation.plan, preparation.processes
    tokens, learnt = int(dataset.lengths.sum()), int(dataset.loss_lengths.sum())
    method = recipe.method
    how = (
        "all weights"
        if isinstance(method, Full)
        else f"{method.kind}, rank {method.rank} on {method.targets}"
    )
    learns = f"{learnt} of them with loss ({learnt / tokens:.0%})"
    if completions := getattr(recipe.train.objective, "completions", None):
        learns = f"each to be answered {completions} times"
    return "\n".join(
        [
            f"model    {recipe.model.path}, template {preparation.choice}",
            f"method   {how}",
            f"data     {len(dataset)} samples, {tokens} tokens, {learns}",
            *(f"         {line}" for line in dataset.summary.splitlines()),
            *([f"tokens   {', '.join(recipe.model.added_tokens)}"] if recipe.model.added_tokens else []),
            *([f"held out {len(preparation.held_out)} samples"] if preparation.held_out else []),
            f"train    {recipe.train.objective.kind}, {plan}, lr {recipe.train.lr:g} {recipe.train.schedule}",
            *([f"         in {processes} processes{_spread(recipe)}"] if processes > 1 else []),
        ]
    )


def _spread(recipe: Recipe) -> str:
    if recipe.train.deepspeed:
        return f", DeepSpeed {recipe.train.deepspeed} (deepspeed.json in the run directory)"
    return ", FSDP2" if recipe.train.fsdp else ""


def train(recipe: Recipe, *, run_dir: str | Path | None = None, profile: bool = False) -> Run:
    """Train as the recipe says and return the run, in `run_dir` or a new directory under runs/. With `profile`, one of
    its steps is looked at: where its time goes is in profile.txt and profile.json.gz there.

    Raises UsageError and DataError for what the recipe names, ResourceError where memory or disk run out. The
    directory is made once data and model are loaded, so that a refused recipe leaves nothing behind.
    """
    with stoppable(), joined(alone=recipe.train.is_spread):
        with together() as facts:
            path = new_run_path(recipe, Path(run_dir) if run_dir else None)
            preparation = prepare(recipe)
            facts.update(_facts(recipe, preparation))
        messages().print(describe(recipe, preparation), soft_wrap=True, markup=False)
        with together():
            first = of_first(path.absolute())
            model = trainable_model(recipe)
            run = create_run(recipe, path, record_of(recipe.data)) if rank() == 0 else Run(first)
        with together():
            check_seen(run)
        with _at_work(run):
            return _train(recipe, preparation, model, run, None, profile)


def resume(run_dir: str | Path, overrides: dict | None = None) -> Run:
    """Continue a run from its newest whole checkpoint, or from the start where it has none."""
    run = open_run(Path(run_dir))
    from xtune.training.checkpoints import newest_checkpoint, processes_of, remove_unfinished

    recipe = load_recipe(run.recipe_file, overrides or {})
    other_data = any(name == "data" or name.startswith("data.sources") for name in overrides or {})
    with stoppable(), joined(alone=recipe.train.is_spread), _at_work(run):
        with together() as facts:
            if not other_data:
                check_unchanged(run, recipe.data)
            preparation = prepare(recipe)
            facts.update(_facts(recipe, preparation))
        messages().print(describe(recipe, preparation), soft_wrap=True, markup=False)
        with together() as facts:
            # One of them reads it all, to see that it is whole.
            if checkpoint := of_first(newest_checkpoint(run.checkpoints.absolute()) if rank() == 0 else None):
                processes_of(checkpoint, recipe.train)  # told before the model is loaded
            elif any(run.checkpoints.glob("checkpoint-*")):
                messages().print("No checkpoint of the run is whole: it starts anew.")
            facts["checkpoint"] = checkpoint.name if checkpoint and checkpoint.is_dir() else None
            model = trainable_model(recipe)
        if rank() == 0:
            remove_unfinished(run.checkpoints)
            if overrides:  # so that the next to resume it goes on the same way
                write_recipe(run, recipe)
            if other_data:
                for name, content in record_of(recipe.data).items():
                    run.write_json(name, content)
        return _train(recipe, preparation, model, run, checkpoint)


def _facts(recipe: Recipe, preparation: Preparation) -> dict[str, str]:
    """What has to be the same in all processes of a run."""
    if ranks() == 1:
        return {}
    data = cache_key(recipe.data, preparation.tokenizer, preparation.template, recipe.train.objective.kind)
    options = hashlib.sha256(recipe_source(recipe).encode()).hexdigest()
    return {"recipe": options[:8], "data": data[:8], **versions()}


def _train(
    recipe: Recipe, preparation: Preparation, model, run: Run, checkpoint: Path | None, profile: bool = False
) -> Run:
    plan, choice = preparation.plan, preparation.choice
    facts = {
        "steps": plan.steps,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "template": {"name": choice.template.name, "why": choice.why},
        "template_difference": str(choice.differences[0]) if choice.differences else None,
    }
    with recorded(run, facts) if rank() == 0 else nullcontext():
        return _train_recorded(recipe, preparation, model, run, checkpoint, profile)


def _train_recorded(
    recipe: Recipe, preparation: Preparation, model, run: Run, checkpoint: Path | None, profile: bool
) -> Run:
    from xtune.model.allocator import kept_memory
    from xtune.training.bad_steps import BadSteps
    from xtune.training.batches import Batches, MicroBatches, most_tokens
    from xtune.training.checkpoints import SaveWhenStopped, processes_of
    from xtune.training.deepspeed import WriteConfig, use_universal
    from xtune.training.full_disk import until_there_is_room
    from xtune.training.gather import gather
    from xtune.training.held_out import HeldOutLoss
    from xtune.training.layout import Layout
    from xtune.training.metrics import Metrics
    from xtune.training.objectives import make_objective
    from xtune.training.out_of_memory import Passes
    from xtune.training.probe import answer_probes, probe_before, probe_rows
    from xtune.training.profile import Profile
    from xtune.training.report_to import Logs
    from xtune.training.result import save_result
    from xtune.training.trainer import make_trainer

    dataset, plan, tokenizer = preparation.dataset, preparation.plan, preparation.tokenizer
    messages().print(
        f"run      {run.path}" + (f", from {checkpoint.name}" if checkpoint else ""), soft_wrap=True
    )
    if rank() == 0:
        run.write_json("data_report.json", dataset.full_report)
    before = probe_before(recipe.probe, run, model, tokenizer, preparation.template)
    sharing = recipe.train.sequence_parallel
    layout = Layout(recipe.data.packing, tokenizer.pad_token_id, sharing, rank() % sharing)
    objective, callbacks = make_objective(
        recipe, dataset, tokenizer, preparation.template, layout, preparation.needed, plan, run.path
    )
    batches = Batches(objective, layout)
    logs = Logs(recipe, run.path)
    metrics = Metrics(run.path / "metrics.jsonl", plan, dataset.loss_lengths, logs) if rank() == 0 else None
    held_out = HeldOutLoss(preparation.held_out, plan, batches, run.path / "held_out.jsonl", logs)
    if recipe.train.deepspeed:
        callbacks = [*callbacks, WriteConfig(run)]
    callbacks = [
        *callbacks,
        *([metrics] if metrics else []),
        *([Profile(run.path)] if profile and rank() == 0 else []),
        SaveWhenStopped(),
        held_out,
    ]

    def smaller(size: int) -> None:  # also where the run is resumed
        changed = recipe.train.model_copy(update={"micro_batch_size": size})
        write_recipe(run, recipe.model_copy(update={"train": changed}))

    most = most_tokens(recipe, on_cpu=model.device.type == "cpu", processes=ranks())
    passes = Passes(
        MicroBatches(batches, plan, ranks() // sharing, most),
        smaller if recipe.train.on_oom == "adapt" else None,
    )
    bad_steps = BadSteps(run, recipe.train.objective, dataset, passes, has_learnt=checkpoint is not None)
    trainer = make_trainer(recipe, model, passes, run.checkpoints, callbacks, bad_steps)
    if checkpoint and recipe.train.deepspeed and processes_of(checkpoint, recipe.train) != ranks():
        use_universal(checkpoint, trainer.args.hf_deepspeed_config.config)
    with kept_memory(), _clear_errors(recipe, preparation, run, trainer):
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            if metrics:
                metrics.close()
        after = answer_probes(recipe.probe, model, tokenizer, preparation.template)
        # An adapter with DoRA is written with the lengths of the base's rows in view.
        gather(model, recipe.train, frozen=isinstance(recipe.method, Full) or recipe.method.dora)

        def finish() -> None:
            save_result(recipe, run.path, model, tokenizer, preparation.template)
            run.write_json("probe.json", probe_rows(recipe.probe, before, after))
            draw_loss(run)
            write_card_of_run(run)

        if rank() == 0:
            until_there_is_room(finish, "the result", run.path)
    return run


@contextmanager
def _at_work(run: Run):
    """Within, no other process trains this run; a signal ends it with the way on."""
    with ExitStack() as stack:
        with together():
            if rank() == 0:
                stack.enter_context(alone_in(run))
        try:
            yield
        except Stopped as stopped:
            raise Stopped(stopped.number, f"Continue with: {way_on(run.path)}") from None


@contextmanager
def _clear_errors(recipe: Recipe, preparation: Preparation, run: Run, trainer):
    """Out of memory, a full disk and a lost process, each with the way on."""
    try:
        yield
    except Exception as error:
        told = lost(error, run.path) or _resource_error(error, recipe, preparation, run, trainer)
        if told is None:
            raise
        raise told from error


def _resource_error(
    error: Exception, recipe: Recipe, preparation: Preparation, run: Run, trainer
) -> ResourceError | None:
    """What to tell of an error in training if memory or disk ran out."""
    from xtune.model.load import is_out_of_memory
    from xtune.training.checkpoints import newest_checkpoint, remove_unfinished

    step = trainer.state.global_step
    if is_out_of_memory(error):
        return _out_of_memory(error, recipe, preparation, run, trainer)
    if not is_disk_full(error):
        return None
    if ranks() == 1:  # others may be writing
        remove_unfinished(run.checkpoints)
    last = newest_checkpoint(run.checkpoints, only_sizes=True)
    return ResourceError(
        f"The disk is full: what step {step} left could not be written. "
        + (f"The last whole checkpoint is {last.name}." if last else "There is no earlier checkpoint."),
        where=str(run.path),
        fix=f"Free some space, then: {way_on(run.path)}",
    )


def _out_of_memory(
    error: Exception, recipe: Recipe, preparation: Preparation, run: Run, trainer
) -> ResourceError:
    from xtune.training.out_of_memory import advice, let_go

    let_go(error)
    told = advice(
        recipe, preparation, trainer.passes.run.plan, checkpointing=trainer.args.gradient_checkpointing
    )
    usual = "Lower train.micro_batch_size or data.max_length, or set train.gradient_checkpointing = True."
    return ResourceError(
        f"Out of memory in step {trainer.state.global_step + 1}.",
        where=str(run.path),
        fix=f"{told or usual} What train says can be set where the run goes on: {way_on(run.path)} --set …",
    )
