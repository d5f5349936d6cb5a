"""What can be seen in a run that came out badly, each by a rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import median

from xtune.run.finding import Finding, Rule, ends_of, means_over
from xtune.run.report_charts import number, running_mean
from xtune.run.summary import Facts, ends, points


def did_not_end(facts: Facts) -> Finding | None:
    """It was stopped or killed, or failed."""
    how = facts.state.get("state")
    if how in ("finished", "running", "unknown"):
        return None
    done = facts.lines[-1]["step"] if facts.lines else 0
    why = f": {facts.state['why'].splitlines()[0]}" if facts.state.get("why") else ""
    return Finding(
        f"The run was {how}." if how != "failed" else "The run failed.",
        f"{done} of {facts.state.get('steps') or '?'} steps{why}",
    )


def steps_were_skipped(facts: Facts) -> Finding | None:
    """Steps without finite loss or gradients."""
    skipped = [line for line in facts.lines if "skipped" in line]
    if not skipped:
        return None
    first = skipped[0]
    return Finding(
        "Steps were skipped.",
        f"{len(skipped)} of {len(facts.lines)}, the first of them step {first['step']} ({first['skipped']}); "
        f"their samples are in {facts.run.path / 'bad_steps'}",
    )


def loss_did_not_fall(facts: Facts) -> Finding | None:
    """Of losses, on held-out samples where there are any; of online training, a reward that did not rise."""
    name, found = facts.judged_by, ends_of(facts)
    held_out = [value for _, value in points(facts.held_out, name)]
    if found is None:
        return None
    evidence = f"{number(found[0])} → {number(found[1])}, {means_over(facts)}"
    if name == "reward":
        rose = found[1] - found[0] > 0.02 * max(map(abs, found))
        return None if rose else Finding("The reward did not rise.", evidence)
    if found[1] > 1.1 * found[0]:
        return Finding("The loss rose.", evidence)
    if len(held_out) > 1 and min(held_out) > 0.97 * held_out[0]:  # the same samples each time
        evidence = (
            f"on held-out samples {number(held_out[0])} → {number(held_out[-1])}; in training {evidence}"
        )
    elif len(held_out) > 1 or found[1] <= 0.97 * found[0]:
        return None
    return Finding("The loss did not fall.", evidence)


def loss_came_back(facts: Facts) -> Finding | None:
    """It fell, and rose again."""
    curve, found = points(facts.learnt, "loss"), ends_of(facts)
    if found is None or facts.judged_by != "loss" or len(curve) < 10:
        return None
    part = ends(len(curve))
    step, lowest = min(running_mean(curve, part)[part - 1 :], key=lambda point: point[1])
    first, last = found
    if last <= 1.1 * first and last - lowest > max(0.3 * lowest, 0.15 * (first - lowest), 0.1):
        evidence = f"{number(lowest)} at step {step}, {number(last)} at the end"
        return Finding("The loss fell, and rose again.", evidence)
    return None


def loss_has_spikes(facts: Facts) -> Finding | None:
    """Single steps far above their neighbours."""
    curve = points(facts.learnt, "loss")
    if facts.judged_by != "loss" or len(curve) < 10:
        return None
    spikes = []
    for index, (step, value) in enumerate(curve):
        usual = median(other for _, other in curve[max(0, index - 5) : index + 6])
        if value > 2 * usual and value > usual + 1:
            spikes.append((step, value, usual))
    if not spikes:
        return None
    step, value, usual = max(spikes, key=lambda spike: spike[1] - spike[2])
    return Finding(
        "The loss has spikes.",
        f"{len(spikes)} of {len(curve)} steps, the highest step {step}: {number(value)} beside {number(usual)}",
    )


def pairs_are_not_told_apart(facts: Facts) -> Finding | None:
    """Of preferences and reward models, an accuracy that is hardly better than chance."""
    for name in ("accuracy", "rewards/accuracy"):
        if (found := ends_of(facts, name)) and found[1] < 0.6:
            evidence = f"right in {found[1]:.0%} of the pairs at the end, where chance is 50 %"
            return Finding("Good and bad answers are not told apart.", evidence)
    return None


def answers_do_not_end(facts: Facts) -> Finding | None:
    """After training, as many tokens as the probe allows; those that are as before are told of by themselves."""
    answers = _answers(facts)
    changed = [row["after"] for row in facts.probes if row.get("after") not in (None, row.get("before"))]
    count = _token_counter(facts)
    if not answers or count is None:
        return None
    most = facts.recipe.probe.max_new_tokens
    endless = [answer for answer in changed if count(answer) >= most - 1]
    if not endless or 2 * len(endless) < len(answers):
        return None
    return Finding(
        "Answers do not end.",
        f"{len(endless)} of {len(answers)} probes are cut at probe.max_new_tokens = {most}",
        "If they are only long, raise probe.max_new_tokens. Else see that answers in the data end with the stop token: "
        "`xtune data show`.",
        0.4,
    )


_LOOP = re.compile(r"(.{2,80}?)\1{3,}", re.S)


def answers_repeat(facts: Facts) -> Finding | None:
    """The same words four times in a row."""
    loops = [
        found
        for answer in _answers(facts)
        for found in _LOOP.finditer(answer[:4000])
        if len(found[0]) >= 16 and re.search(r"\w", found[1])
    ]
    if not loops:
        return None
    unit = " ".join(loops[0][1].split())[:40]
    return Finding(
        "Answers go round in circles.", f'"{unit}" {len(loops[0][0]) // len(loops[0][1])} times in a row'
    )


def answers_are_the_same(facts: Facts) -> Finding | None:
    """One answer to every prompt."""
    answers = _answers(facts)
    if len(answers) < 3 or len(set(answers)) > 1:
        return None
    return Finding("All probes get the same answer.", f'{len(answers)} times "{answers[0][:60]}"')


def answers_are_unchanged(facts: Facts) -> Finding | None:
    """Those of before, to the letter."""
    rows = [row for row in facts.probes if row.get("after") is not None]
    if not rows or any(row.get("before") != row["after"] for row in rows):
        return None
    return Finding("Training changed no answer.", f"{len(rows)} of {len(rows)} probes answer as before")


def _answers(facts: Facts) -> list[str]:
    return [row["after"] for row in facts.probes if isinstance(row.get("after"), str)]


def _token_counter(facts: Facts) -> Callable[[str], int] | None:
    """How many tokens a text has, by the tokenizer beside the result; None where it cannot be read."""
    from tokenizers import Tokenizer

    file = facts.run.result and facts.run.result / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # not there, or not of this kind: tokenizers raises plain Exceptions
        return None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


SEEN: tuple[Rule, ...] = (
    did_not_end,
    steps_were_skipped,
    loss_did_not_fall,
    loss_came_back,
    loss_has_spikes,
    pairs_are_not_told_apart,
    answers_do_not_end,
    answers_repeat,
    answers_are_the_same,
    answers_are_unchanged,
)
