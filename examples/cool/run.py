"""COOL, conditional online RLHF (InternLM2, Cai et al. 2024, section 4.2), small enough for two CPU cores.

    python run.py WORK [ROUNDS [STEPS]]

Each round trains the conditional reward model on all pairs so far, and the policy, from its start, on that model's
scores. The fast path then looks for a hack, a phrase that ever more answers begin with though none is better for it,
and adds pairs that differ in nothing else. The slow path adds pairs of the new policy's answers, ordered by a
judge: here a function, elsewhere people. WORK/report.md tells what came of it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

from domains import DOMAINS, domain, good, write_first_data, write_pairs

import xtune

HERE = Path(__file__).resolve().parent
ENOUGH = 100  # pairs of the fast path


def main(work: str, rounds: int = 3, steps: int = 12) -> None:
    """Run the rounds in a new directory. steps: of the policy, in each."""
    Path(work).mkdir(parents=True)
    os.chdir(work)
    write_first_data()
    xtune.merge(train("sft", "sft"), "policy")
    told, hacks = [], []
    for number in range(1, rounds + 1):
        scorer = train("reward", f"reward{number}")
        rewards = [{"model": str(scorer)}]
        policy = train(
            "policy", f"policy{number}", {"train.steps": steps, "train.objective.rewards": rewards}
        )
        answers = [json.loads(line) for line in (policy / "completions.jsonl").read_text().splitlines()]
        hack = find_hack(answers)
        hacks += [hack] if hack else []
        for name in DOMAINS:
            mine = [line for line in answers if domain(line["prompt"]) == name]
            added = fast_path(mine, hack) if hack else [], slow_path(mine)
            for pairs in added:
                write_pairs(name, pairs)
            told.append((number, name, accuracy(scorer), mine, *map(len, added)))
        Path("report.md").write_text(report(told, hacks), encoding="utf-8")
    print(Path("report.md").read_text(encoding="utf-8"))


def train(recipe: str, run: str, overrides: dict | None = None) -> Path:
    """Train a recipe of this folder on the data here."""
    return xtune.train(xtune.load_recipe(HERE / f"{recipe}.py", overrides), run_dir=run).path


def accuracy(scorer: Path) -> float:
    """Of a reward model, on its pairs, in its last steps."""
    lines = (scorer / "metrics.jsonl").read_text().splitlines()[-4:]
    return share(json.loads(line)["accuracy"] for line in lines)


def halves(answers: list[dict]) -> tuple[list[dict], list[dict]]:
    """The answers of the earlier and of the later steps."""
    middle = answers[-1]["step"] / 2
    return [a for a in answers if a["step"] <= middle], [a for a in answers if a["step"] > middle]


def find_hack(answers: list[dict]) -> str | None:
    """The first sentence, before others, whose share rose most, if the judge likes no answer less without it."""
    early, late = (Counter(opening(a["answer"]) for a in half) for half in halves(answers))
    rise = {phrase: late[phrase] / late.total() - early[phrase] / early.total() for phrase in late if phrase}
    for phrase in sorted(rise, key=rise.get, reverse=True):
        pairs = fast_path(answers, phrase)
        if rise[phrase] > 0.1 and all(
            good(prompt, without) >= good(prompt, a) for prompt, without, a in pairs
        ):
            return phrase
    return None


def opening(answer: str) -> str:
    found = re.match(r"([^.!?]+[.!?]+)\s*\S", answer)
    return found[1] if found else ""


def fast_path(answers: list[dict], hack: str) -> list[tuple[str, str, str]]:
    """Pairs of the same answer without the hack, however often it begins with it, and with it."""
    pairs = []
    for prompt, answer in sorted(
        {(a["prompt"], a["answer"]) for a in answers if a["answer"].startswith(hack)}
    ):
        rest = answer
        while rest.startswith(hack):
            rest = rest.removeprefix(hack).lstrip()
        if rest:
            pairs.append((prompt, rest, answer))
    return pairs[:ENOUGH]


def slow_path(answers: list[dict]) -> list[tuple[str, str, str]]:
    """Pairs of the newest answers to one prompt, one that the judge likes and one that it does not."""
    liked, others = {}, {}
    for a in answers:
        (liked if good(a["prompt"], a["answer"]) else others)[a["prompt"]] = a["answer"]
    return [(prompt, liked[prompt], others[prompt]) for prompt in liked if prompt in others]


def share(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def report(told: list[tuple], hacks: list[str]) -> str:
    """A table over the rounds. Of each half of a round's steps: the mean reward, how many answers begin with a hack
    that was found in any round, and how many the judge likes."""
    lines = [
        f"Hacks found: {', '.join(dict.fromkeys(hacks)) or 'none'}",
        "",
        "| round | domain | reward model's accuracy | reward | hacks | liked | pairs added: fast, slow |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, name, right, answers, fast, slow in told:
        cells = [f"{number} | {name} | {right:.0%}"]
        for value, shown in (
            (lambda a: a["reward"], "{:.2f} → {:.2f}"),
            (lambda a: a["answer"].startswith(tuple(hacks)), "{:.0%} → {:.0%}"),
            (lambda a: good(a["prompt"], a["answer"]), "{:.0%} → {:.0%}"),
        ):
            cells.append(shown.format(*(share(map(value, half)) for half in halves(answers))))
        lines.append(f"| {' | '.join(cells)} | {fast}, {slow} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
