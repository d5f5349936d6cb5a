"""What may have made a run come out badly, each by a rule that says how likely it is, and what to try."""

from __future__ import annotations

import re
from statistics import median

from xtune.data.report import faults
from xtune.recipe.schema import Full, Recipe
from xtune.run.finding import Finding, Rule, ends_of, means_over
from xtune.run.report_charts import number
from xtune.run.summary import Facts, points

FEW_STEPS = 20


def usual_rate(recipe: Recipe) -> float:
    """The learning rate that this recipe would get if it named none."""
    told = recipe.model_dump()
    return Recipe.model_validate({**told, "train": {**told["train"], "lr": None}}).train.lr


def rate_is_unusual(facts: Facts) -> Finding | None:
    """Ten times the usual one, or a tenth."""
    recipe = facts.recipe
    rate, usual = recipe.train.lr, usual_rate(recipe)
    times = max(rate / usual, usual / rate)
    if times < 9.9:
        return None
    return Finding(
        f"The learning rate is far {'above' if rate > usual else 'below'} the usual.",
        f"train.lr = {rate:g}, where {usual:g} is usual for {recipe.train.objective.kind} with {recipe.method.kind}",
        f"--set train.lr={usual:g}",
        0.95 if times >= 30 else 0.7,
    )


def overfits(facts: Facts) -> Finding | None:
    """Held-out samples get worse, or stay behind by far, while those trained on get better."""
    curve, found = points(facts.held_out, "loss"), ends_of(facts)
    if len(curve) < 2 or facts.judged_by != "loss" or found is None or found[1] > 0.97 * found[0]:
        return None
    (step, lowest), (_, last) = min(curve, key=lambda point: point[1]), curve[-1]
    if last > 1.05 * lowest and last > lowest + 0.02:
        evidence = f"held-out loss {number(lowest)} at step {step}, {number(last)} at the end"
    elif last > 2 * found[1] and last > found[1] + 0.5:
        evidence = f"loss {number(last)} on held-out samples, {number(found[1])} on those trained on"
    else:
        return None
    return Finding(
        "It learns its samples by heart.",
        evidence,
        f"Fewer steps (about {step or 1}), a lower train.lr or method.rank, or more data.",
        0.8,
    )


def has_memorised(facts: Facts) -> Finding | None:
    """The loss is almost 0, and no held-out samples tell whether that is good."""
    found = ends_of(facts)
    kind = facts.recipe.train.objective.kind
    if found is None or kind not in ("sft", "pretrain") or found[1] >= 0.05:
        return None
    if points(facts.held_out, "loss"):
        return None  # which `overfits` judges
    return Finding(
        "The loss fell to almost 0: the samples may be learnt by heart.",
        f"{number(found[0])} → {number(found[1])}, {means_over(facts)}; no samples are held out to tell",
        "--set data.held_out=0.1, and fewer epochs if the held-out loss rises.",
        0.6,
    )


def gradients_vanish(facts: Facts) -> Finding | None:
    """Norms near 0."""
    norms = [value for _, value in points(facts.learnt, "grad_norm")]
    if not norms or median(norms) >= 1e-3:
        return None
    return Finding(
        "The gradients are almost 0.",
        f"median norm {number(median(norms))} over {len(norms)} steps",
        "See that method.targets and method.layers name what the model uses, and that samples have tokens with loss: "
        "`xtune data show`.",
        0.75,
    )


def always_clipped(facts: Facts) -> Finding | None:
    """Norms far above where they are clipped."""
    norms = [value for _, value in points(facts.learnt, "grad_norm")]
    limit = facts.recipe.train.max_grad_norm
    if len(norms) < 4 or median(norms) < 5 * limit:
        return None
    share = sum(norm > limit for norm in norms) / len(norms)
    return Finding(
        "The gradients are large, and clipped all the time.",
        f"{share:.0%} of the steps are clipped to train.max_grad_norm = {limit:g}; median norm {number(median(norms))}",
        "A lower train.lr, a longer train.warmup, or a larger batch_size.",
        0.5,
    )


def few_steps(facts: Facts) -> Finding | None:
    """Too few to learn anything, unless the loss has fallen far."""
    steps, found = len(facts.lines), ends_of(facts)
    if not 0 < steps < FEW_STEPS or facts.state.get("state") == "running":
        return None
    if facts.judged_by == "loss" and found and found[1] < 0.7 * found[0]:
        return None
    return Finding(
        "There are few steps.",
        f"{steps} steps, where some dozens are the least that changes a model",
        "More train.epochs or train.steps, or a smaller train.batch_size.",
        0.65,
    )


def little_loss(facts: Facts) -> Finding | None:
    """Few of the tokens are learnt."""
    tokens, learnt = facts.data.get("tokens"), facts.data.get("tokens_with_loss")
    if not tokens or learnt is None or learnt / tokens >= 0.05:
        return None
    return Finding(
        "Few of the tokens carry loss.",
        f"{learnt:,} of {tokens:,} ({learnt / tokens:.1%})",
        "`xtune data show` marks what is learnt: see that the answers are the assistant's turns.",
        0.85,
    )


def much_is_rejected(facts: Facts) -> Finding | None:
    """Records that the run has not learnt from."""
    read, rejections = facts.data.get("read"), faults({"rejections": {}, **facts.data})
    rejected = sum(tally["count"] for tally in rejections.values())
    if not read or rejected / read < 0.1:
        return None
    reason, tally = next(iter(rejections.items()))
    return Finding(
        "Much of the data was rejected.",
        f"{rejected:,} of {read:,} records ({rejected / read:.0%}), most of them as: {reason} ({tally['count']:,})",
        "`xtune data check` names the records; data.defects says what is done with each kind.",
        0.3 + 0.5 * rejected / read,
    )


def _of_the_data(facts: Facts, words: str) -> tuple[int, float]:
    """How many records a reason that has these words was found in, and their share."""
    reasons = {**facts.data.get("repairs", {}), **facts.data.get("notes", {})}
    count = sum(tally["count"] for reason, tally in reasons.items() if re.search(words, reason))
    return count, count / max(1, facts.data.get("read") or 0)


def much_is_cut(facts: Facts) -> Finding | None:
    """Samples longer than data.max_length."""
    count, share = _of_the_data(facts, "max_length.*(left out|cut)")
    if share < 0.1:
        return None
    return Finding(
        "Many samples were too long, and were cut.",
        f"{count:,} records ({share:.0%}) are longer than data.max_length = {facts.recipe.data.max_length}",
        "A larger data.max_length, or another data.overlong.",
        0.3,
    )


def many_duplicates(facts: Facts) -> Finding | None:
    """The same records again and again, which are learnt by heart."""
    count, share = _of_the_data(facts, "same as an earlier record")
    if share < 0.1:
        return None
    return Finding(
        "Many records are the same.",
        f"{count:,} records ({share:.0%}) are the same as earlier ones",
        "`xtune data clean`, or --set data.defects.duplicate=drop",
        0.35 + 0.4 * share,
    )


def template_differs(facts: Facts) -> Finding | None:
    """The model's own chat template writes something else."""
    if not (difference := facts.state.get("template_difference")):
        return None
    return Finding(
        "The chat template is not the checkpoint's own.",
        " ".join(difference.split())[:300],
        "--set model.template=auto, unless the other one was meant.",
        0.55,
    )


def half_precision(facts: Facts) -> Finding | None:
    """float16 has a narrow range."""
    if "float16" not in (facts.recipe.model.dtype, facts.state.get("dtype")):
        return None
    return Finding(
        "The base is in float16, in which large values become infinite.",
        'model.dtype = "float16"',
        "--set model.dtype=auto",
        0.7 if len(facts.learnt) < len(facts.lines) else 0.3,
    )


def full_training_of_little_data(facts: Facts) -> Finding | None:
    """All weights, from a few records, over and over."""
    samples = facts.data.get("samples")
    epochs = facts.lines[-1].get("epoch", 0) if facts.lines else 0
    if not isinstance(facts.recipe.method, Full) or not samples or samples > 500 or epochs < 5:
        return None
    return Finding(
        "All weights are trained on little data, many times over.",
        f"{samples} samples, {number(epochs)} times",
        "--set method.kind=lora, or fewer epochs.",
        0.45,
    )


def becomes_slow(facts: Facts) -> Finding | None:
    """Half the speed at the end."""
    speeds = [value for _, value in points(facts.lines, "tokens_per_second")]
    part = max(3, len(speeds) // 10)
    if len(speeds) < 3 * part:
        return None
    best = max(median(speeds[start : start + part]) for start in range(0, len(speeds) - part + 1, part))
    last = median(speeds[-part:])
    if last > 0.4 * best:
        return None
    return Finding(
        "It became slow.",
        f"{number(best)} tokens/s at best, {number(last)} at the end",
        "Something else wants the machine, or its memory is short and it swaps: see `xtune doctor`.",
        0.1,
    )


def rewards_do_not_differ(facts: Facts) -> Finding | None:
    """Of online training: where all answers to a prompt score the same, nothing is learnt."""
    spreads = [value for _, value in points(facts.learnt, "reward_std")]
    same = sum(value == 0 for value in spreads)
    if not spreads or 2 * same < len(spreads):
        return None
    return Finding(
        "The answers to a prompt mostly score the same.",
        f"reward_std is 0 in {same} of {len(spreads)} steps: nothing can be learnt from them",
        "Prompts that are neither too easy nor too hard, a reward with grades in between, more completions, or a "
        "higher temperature.",
        0.85,
    )


CAUSES: tuple[Rule, ...] = (
    rate_is_unusual,
    overfits,
    has_memorised,
    gradients_vanish,
    always_clipped,
    few_steps,
    little_loss,
    much_is_rejected,
    much_is_cut,
    many_duplicates,
    template_differs,
    half_precision,
    full_training_of_little_data,
    becomes_slow,
    rewards_do_not_differ,
)
