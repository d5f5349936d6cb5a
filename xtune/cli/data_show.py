"""`xtune data show`: samples as the model reads them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import click

from xtune.cli.command import Command
from xtune.cli.data import Selection, printable, select, source_options

if TYPE_CHECKING:
    from xtune.data.files import Record
    from xtune.data.read import Reader
    from xtune.messages import AnySample
    from xtune.templates.render import Rendered
    from xtune.templates.template import Template

# What a terminal shows as nothing, obeys or turns around; and the marks used here. Joiners stay: emoji and Indic
# scripts are written with them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u200b\u200e\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb⟦⟧⟨⟩␣⇥↵]"
)
_SPACES = str.maketrans({" ": "␣", "\t": "⇥", "\n": "↵\n"})
_WIDTH = 100  # of lines of tokens


@click.command(cls=Command, epilog="Example: xtune data show train.jsonl --template qwen2_5 -n 1")
@click.argument("path")
@source_options
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=3, show_default=True, help="How many records."
)
@click.option(
    "--skip", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N records."
)
@click.option("--ids", is_flag=True, help="Show the tokens and their ids too.")
def show(path, count, skip, ids, **options):
    """Show the first records of PATH (a file, a directory, a name on the hub, or a recipe) as the model reads them.

    What is learnt is green; or, without colour, between ⟦ and ⟧.
    """
    from xtune.data.read import open_source
    from xtune.data.report import DataReport
    from xtune.errors import UsageError

    selected = select([path], **options)
    choice = selected.template()
    view = View(choice.template, selected, ids, sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    click.echo(f"template {choice}\n{view.legend()}")
    actions = selected.data.defects.model_dump()
    for source in selected.data.sources:
        report = DataReport()
        reader, records = open_source(source, report, kinds=selected.kinds, actions=actions)
        shown = list(islice(records, skip, skip + count))
        if not shown:
            raise UsageError("There are not so many records.", where=source.path, fix="lower --skip")
        (read_as,) = report.formats
        click.echo(f"\n{source.path}: {read_as.format} ({read_as.why})")
        for record in shown:
            for text in view.record(record, reader):
                click.echo(text)


@dataclass(frozen=True)
class View:
    """How samples are shown.

    ids      whether with tokens
    colour   in colours; else with marks
    """

    template: Template
    selected: Selection
    ids: bool
    colour: bool

    @cached_property
    def tokenizer(self):
        """The model's; loaded only where it is needed, which takes seconds."""
        return self.selected.tokenizer()

    def legend(self) -> str:
        """What the colours and marks mean."""
        learnt = self._style("learnt (carries loss)", learnt=True)
        learnt = f"{learnt}  {self._style('control token', control=True)}" if self.colour else f"⟦{learnt}⟧"
        return (
            f"{learnt}  ␣ ⇥ ↵ white space at an end  ⟨U+00A0⟩ cannot be seen  "
            "⟨typed X⟩ plain text, although X is a control token"
        )

    def record(self, record: Record, reader: Reader) -> Iterator[str]:
        """The samples of a record, or why there are none."""
        from xtune.data.findings import Reject

        try:
            samples, found = reader.samples(record)
            texts = [self._renderings(sample) for sample in samples]
        except Reject as fault:
            detail = f" ({fault.detail})" if fault.detail else ""
            yield self._heading(printable(f"{record.place}  rejected: {fault.reason}{detail}"))
            return
        for sample, rendered in zip(samples, texts, strict=True):
            names = _names(sample, len(rendered))
            yield self._heading(f"{record.place}  {_kind(sample)}")
            yield from (printable(f"repaired: {reason}") for reason in found.repairs)
            yield from (printable(f"kept as it is: {reason}") for reason in found.notes)
            if _adds_system(sample, record.row):
                yield f"the system prompt is not in the row: {reader.format} adds it"
            for name, one in zip(names, rendered, strict=True):
                if name:
                    yield self._heading(name)
                yield self.text(one)
                if self.ids:
                    yield self.tokens(one)

    def _renderings(self, sample: AnySample) -> list[Rendered]:
        from xtune.data.encoding.render_samples import document_ends, renderings
        from xtune.data.findings import Reject
        from xtune.errors import DataError
        from xtune.messages import Document

        ends = document_ends(self.tokenizer) if isinstance(sample, Document) else ("", "")
        try:
            return renderings(sample, self.template, ends)
        except DataError as error:
            raise Reject("template", error.what) from None

    def text(self, rendered: Rendered) -> str:
        """The text that the model reads, with marks for what cannot be seen."""
        none = ("", False, False)
        parts = [none, *_parts(rendered), none]
        shown = []
        for before, (text, learnt, control), after in zip(parts, parts[1:], parts[2:], strict=False):
            if not control:
                stops = after[2] and after[0] in self.template.stop_tokens and not text.isspace()
                text = self._typed(_HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text))
                text = _mark_ends(text, learnt and not before[1], stops or (learnt and not after[1]))
            shown.append(("", text, learnt, control))
        return self._joined(shown)

    def _typed(self, text: str) -> str:
        tokens = sorted(self.template.guarded_tokens, key=len, reverse=True)
        pattern = "|".join(map(re.escape, tokens))
        return re.sub(pattern, lambda found: f"⟨typed {found[0]}⟩", text) if tokens else text

    def tokens(self, rendered: Rendered) -> str:
        """Its tokens as id:"text"; with ->id where something else than the token is learnt at its place."""
        from xtune.data.encoding.encode import NO_LABEL, encode_rendered

        (encoded,) = encode_rendered([rendered], self.tokenizer, self.template)
        shown, width = [], 0
        for index, label in zip(encoded.input_ids.tolist(), encoded.labels.tolist(), strict=True):
            other = f"->{label}" if label not in (index, NO_LABEL) else ""
            text = f"{index}:{_token(self.tokenizer, index)}{other}"
            width += 1 + len(text)
            space = " " if width <= _WIDTH else "\n"
            width = width if space == " " else len(text)
            shown.append((space if shown else "", text, label != NO_LABEL, False))
        learnt = sum(learnt for _, _, learnt, _ in shown)
        return f"{len(shown)} tokens, {learnt} with loss:\n{self._joined(shown)}"

    def _joined(self, parts: list[tuple[str, str, bool, bool]]) -> str:
        """(space before, text, learnt, control) of each part as one text, with what is learnt marked."""
        joined, open_ = [], False
        for space, text, learnt, control in parts:
            if learnt != open_ and not self.colour:
                space = f"{space}⟦" if learnt else f"⟧{space}"
            joined.append(space + self._style(text, learnt, control))
            open_ = learnt
        return "".join(joined) + ("⟧" if open_ and not self.colour else "")

    def _style(self, text: str, learnt: bool = False, control: bool = False) -> str:
        if not self.colour or not (learnt or control):
            return text
        return click.style(text, fg="green" if learnt else None, bold=control or None)

    def _heading(self, text: str) -> str:
        return f"\n{self._style(f'── {text}', control=True)}"


def _parts(rendered: Rendered) -> Iterator[tuple[str, bool, bool]]:
    """(text, whether it is learnt, whether it is a control token of the template's), which make up the text."""
    controls, learnt = set(rendered.control_spans), rendered.loss_spans
    spans = [(0, len(rendered.text)), *controls, *learnt]
    for start, end in pairwise(sorted({edge for span in spans for edge in span})):
        with_loss = any(first <= start < last for first, last in learnt)
        yield rendered.text[start:end], with_loss, (start, end) in controls


def _mark_ends(text: str, first: bool, last: bool) -> str:
    """White space at the start and at the end of a text made visible."""
    start = len(text) - len(text.lstrip(" \t\n")) if first else 0
    end = max(start, len(text.rstrip(" \t\n"))) if last else len(text)
    return text[:start].translate(_SPACES) + text[start:end] + text[end:].translate(_SPACES)


def _token(tokenizer, index: int) -> str:
    """The text of a token, quoted; of a part of a character, its name in the vocabulary."""
    name = tokenizer.convert_ids_to_tokens(index)
    text = name.replace("▁", " ") if "▁" in name else tokenizer.decode([index])
    quoted = json.dumps(name if "\ufffd" in text else text, ensure_ascii=False)
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _kind(sample: AnySample) -> str:
    from xtune.messages import Document, Labelled, Pair, Prompt

    if isinstance(sample, Labelled):
        return f"labelled answer: {'good' if sample.good else 'bad'}"
    names = {Pair: "preference pair", Prompt: "prompt: the model goes on, nothing here is learnt"}
    return {**names, Document: "document"}.get(type(sample), "conversation")


def _names(sample: AnySample, count: int) -> list[str]:
    """What the texts of a sample are called; "" where there is but one."""
    from xtune.messages import Pair

    if isinstance(sample, Pair):
        return ["chosen", "rejected"]
    return [f"turn {number} of {count}" for number in range(1, count + 1)] if count > 1 else [""]


def _adds_system(sample: AnySample, row: Any) -> bool:
    """Whether there is a system prompt that does not come from the row."""
    messages = getattr(sample, "prompt", None) or getattr(sample, "messages", ())
    said = [message.content.strip() for message in messages if message.role == "system"]
    if not said:
        return False
    texts = list(_texts(row))
    # In a row that holds JSON as text, what is said stands escaped.
    return any(not any(one in text or json.dumps(one)[1:-1] in text for text in texts) for one in said)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
