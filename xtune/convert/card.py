"""The model card beside a result: README.md with what it was made of and how, in the form that the hub reads.

All comes from the run's own files. What is not known, as of a model without a run, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xtune.errors import UserError
from xtune.families.embedded import LICENCE, PUBLISHED, model_directory
from xtune.families.hub import is_hub_name
from xtune.home import write_whole
from xtune.run.directory import Run, is_run
from xtune.run.report import duration
from xtune.run.summary import Facts, read_facts, summarise
from xtune.run.target import Target, find_target

CARD = "README.md"
_MARK = "<!-- Written by xtune, which leaves a README.md without this line alone. -->"
_PEFTS = "# Model Card for Model ID"  # PEFT's, in which nothing is filled in
_ADAPTER_FOR, _MADE_OF = " is an adapter for ", " is made of "
_USE, _LICENCE = "\n## Use\n", "\n## Licence\n"

_WHOLE = """\
```python
from transformers import pipeline

chat = pipeline("text-generation", "path/to/this/directory")
print(chat([{"role": "user", "content": "Who are you?"}])[0]["generated_text"][-1]["content"])
```
"""
_ORIGINAL = """\
In its publisher's layout, as the base is. `xtune chat path/to/this/directory`, or in place of the base wherever that is
loaded.
"""
_ADAPTER = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "path/to/this/directory")
```

Or at once: `xtune chat path/to/this/directory`. `xtune convert merge` makes one model of base and adapter.
"""
_REWARD = """\
```python
import xtune

model = xtune.load_reward_model("path/to/this/directory")
print(model.score([[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]]))
```
"""


def write_card(file: Path, target: Target, *, use: str = "", library: str = "transformers") -> None:
    """Write the card of something made of `target`, unless a file is there that xtune did not write.

    use      how it is loaded, in Markdown; without, as a directory of transformers'
    library  as the hub names it; "peft": it is the adapter itself
    """
    before = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else _MARK
    if _MARK not in before and _PEFTS not in before:
        return
    use = use or _use(file.parent, target, library)
    facts = _facts(target)
    source = target.adapter or model_directory(target.base)
    if facts is None and (inherited := _own_card(source)):  # of what this is another form of
        head, licence = inherited.partition(_USE)[0], _LICENCE + inherited.partition(_LICENCE)[2]
        head = re.sub(r"^library_name: .*$", f"library_name: {library}", head, count=1, flags=re.M)
        head = head if library == "peft" else head.replace(_ADAPTER_FOR, _MADE_OF, 1)
    else:
        base = facts.recipe.model.path if facts else target.base
        head, licence = _head(facts, base, target.reward, library), _licence(base)
    write_whole(file, f"{head}{_USE}\n{use}{licence}")


def write_card_of_run(run: Run) -> None:
    """The card of what a run has trained, beside it. For want of one no run fails."""
    with suppress(UserError):
        target = find_target(str(run.path))
        write_card(run.result / CARD, target, library="peft" if target.adapter else "transformers")


def _own_card(directory: Path) -> str | None:
    file = directory / CARD
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return text if _MARK in text and _USE in text else None


def _facts(target: Target) -> Facts | None:
    """Of the run that a target came from: its result lies in it, or in a folder of it."""
    result = (target.adapter or model_directory(target.base)).absolute()
    run = next((path for path in result.parents[:2] if is_run(path)), None)
    try:
        return read_facts(run) if run else None
    except UserError:  # it is damaged, which is no reason to ship nothing
        return None


def _head(facts: Facts | None, base: str, reward: bool, library: str) -> str:
    published = PUBLISHED.get(base, base if is_hub_name(base) else None)
    licence = _licence_name(base)
    front: dict[str, Any] = {
        **({"base_model": published} if published and facts else {}),
        "library_name": library,
        "pipeline_tag": "text-classification" if reward else "text-generation",
        **({"license": licence} if licence else {}),
        "tags": ["xtune", *([facts.recipe.method.kind] if facts else [])],
    }
    title = facts.recipe.name if facts else _name(base)
    lines = ["---", *_yaml(front), "---", "", _MARK, "", f"# {title}", ""]
    if facts is None:
        return "\n".join([*lines, f"{_name(base)}, in another form.", ""])
    link = f"[{published}](https://huggingface.co/{published})" if published else _name(base)
    what = _ADAPTER_FOR if library == "peft" else " is a reward model, made of " if reward else _MADE_OF
    lines += [f"{title}{what}{link}.", "", "## Training", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(told)} |" for name, told in _training(facts).items()]
    recipe = facts.run.recipe_file.read_text(encoding="utf-8").strip()
    lines += ["", "The recipe:", "", "```python", _without_places(recipe), "```", ""]
    answers = [row for row in facts.probes if row.get("after") is not None]
    if answers:
        lines += ["## Answers", "", "| asked | before | after |", "|---|---|---|"]
        for row in answers:
            lines.append(
                "| " + " | ".join(_cell(str(row.get(key))) for key in ("prompt", "before", "after")) + " |"
            )
        lines.append("")
    return "\n".join(lines)


def _training(facts: Facts) -> dict[str, str]:
    """What a run says of itself, by name."""
    run, data, environment = summarise(facts), facts.data, facts.environment
    told = {"method": f"{run.method}, {run.objective}"}
    if files := ", ".join(dict.fromkeys(Path(file["path"]).name for file in data.get("formats", ()))):
        counts = [
            f"{data[name]:,} {name}" for name in ("read", "kept", "repaired", "rejected") if name in data
        ]
        told["data"] = f"{files}: records {', '.join(counts)}"
    if facts.learnt:
        tokens = sum(line.get("tokens", 0) for line in facts.learnt)
        told["steps"] = f"{run.steps:,}, {tokens:,} tokens"
    for name, first, last in (
        (run.judged_by, run.first, run.last),
        (f"held-out {run.judged_by}", run.held_out_first, run.held_out_last),
    ):
        if first is not None and last is not None:
            told[name] = f"{first:.3f} at first, {last:.3f} at last"
    if run.seconds:
        processes = environment.get("processes", 1)
        many = f" × {processes}" if processes > 1 else ""
        told["time"] = f"{duration(run.seconds)} on {environment.get('device', 'a device')}{many}"
    versions = environment.get("versions", {})
    with_what = [
        f"{name} {versions[name]}" for name in ("xtune", "torch", "transformers") if versions.get(name)
    ]
    return told | ({"with": ", ".join(with_what)} if with_what else {})


def _without_places(recipe: str) -> str:
    """A recipe to be shown to others: of files their names, not where they lie."""
    return re.sub(r"""(["'])(?:~|\.{0,2}/)[^"'\n]*/([^"'/\n]+)\1""", r"\1\2\1", recipe)


def _use(directory: Path, target: Target, library: str) -> str:
    if target.reward:
        return _REWARD
    if library == "peft":
        return _ADAPTER.format(
            base=PUBLISHED.get(target.base, target.base if is_hub_name(target.base) else "path/to/base")
        )
    config = directory / "config.json"
    original = config.is_file() and '"auto_map"' in config.read_text(encoding="utf-8")
    return _ORIGINAL if original else _WHOLE


def _licence(base: str) -> str:
    known, directory = _licence_name(base), model_directory(base)
    beside = sorted(file.name for file in directory.glob("*LICEN[SC]E*")) if directory.is_dir() else []
    told = f" ({known})" if known else f" (see {', '.join(beside)} there)" if beside else ""
    return (
        f"{_LICENCE}\nThe licence of the base model, {_name(base)}, goes on to hold{told}. Of the licences of the data "
        "nothing is known here.\n"
    )


def _licence_name(base: str) -> str | None:
    """What the base's own card gives, in the hub's words."""
    if base in LICENCE:
        return LICENCE[base]
    card = model_directory(base) / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---\n", text, re.S)
    told = re.search(r"^license: *([\w.-]+) *$", front[1], re.M) if front else None
    return told[1] if told else None


def _name(base: str) -> str:
    return PUBLISHED.get(base, base if is_hub_name(base) else Path(base).expanduser().absolute().name)


def _yaml(front: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in front.items():
        several = isinstance(value, list)
        lines += [f"{name}:", *(f"- {item}" for item in value)] if several else [f"{name}: {value}"]
    return lines


def _cell(text: str) -> str:
    """Text that stays within a cell of a table."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", r"\<")
