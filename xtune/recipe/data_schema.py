"""What a recipe may say of its data: the sources, how samples are laid out, and what is done about defects."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from xtune.recipe.section import Section, conflict


class Source(Section):
    path: str
    """A file, a directory of files or a name on the hub; a relative path starts at the recipe's folder, then where
    you stand."""
    format: str = "auto"
    """How rows are laid out: a name (alpaca, sharegpt …), "auto" to find out from the rows, or a function of yours."""
    split: str | None = None
    """Which part of a data set that has several. None: "train"."""
    encoding: str | None = None
    """Of a text file that is not UTF-8: "gb18030", "utf-16" …"""
    limit: int | None = Field(None, ge=1)
    """Take only the first records."""
    weight: float | None = Field(None, gt=0)
    """How often a sample is seen in an epoch: 0.5 is every other, 2 each twice."""
    count: int | None = Field(None, ge=1)
    """Samples seen in an epoch; another way to say weight."""
    system: str | None = None
    """System prompt for samples that have none in the data."""
    condition: str | None = Field(None, min_length=1)
    """What is preferred here, as a system prompt in front of any other. Of a reward model: accuracy is told for each
    condition. Online: the model that answers is not told, only the reward model that judges."""

    @model_validator(mode="after")
    def _consistent(self):
        if self.weight is not None and self.count is not None:
            raise conflict("give weight or count, not both", "weight", "count")
        return self


class Defects(Section):
    """What is done about each defect of a record. "keep": it is only counted; "repair"; "drop_turn": the turns
    concerned; "drop": the record; "stop": an error that names the place. Everything is counted in the data report.
    """

    broken_record: Literal["drop", "stop"] = "drop"
    """Not JSON, cut off, or with too few or too many cells."""
    wrong_columns: Literal["drop", "stop"] = "drop"
    """Other columns than the format has."""
    wrong_type: Literal["drop", "stop"] = "drop"
    """A value of another type than the format has."""
    not_text: Literal["repair", "drop", "stop"] = "repair"
    """A number or an object where text is expected; repaired by writing it as text."""
    broken_json: Literal["drop", "stop"] = "drop"
    """JSON as text in a cell (tools, arguments) that is not JSON."""
    unknown_role: Literal["drop", "stop"] = "drop"
    """A turn of nobody known."""
    media: Literal["drop", "stop"] = "drop"
    """Images, sound or video."""
    starts_with_answer: Literal["drop_turn", "drop", "stop"] = "drop_turn"
    """The first turn is not the user's; dropped up to it."""
    same_role_twice: Literal["repair", "drop", "stop"] = "repair"
    """Two turns of one role in a row; repaired by joining them with a blank line."""
    empty_question: Literal["drop_turn", "drop", "stop"] = "drop_turn"
    """A question without words; the conversation ends before it."""
    empty_answer: Literal["drop_turn", "drop", "stop"] = "drop_turn"
    """An answer without words; the conversation ends before its question."""
    no_answer: Literal["drop_turn", "drop", "stop"] = "drop_turn"
    """The last turn is not the assistant's; cut to the last answer."""
    late_system: Literal["drop", "stop"] = "drop"
    """A system message after the first turn."""
    misplaced_tool: Literal["drop", "stop"] = "drop"
    """A tool call or result where none can be."""
    no_loss: Literal["drop", "stop"] = "drop"
    """No turn is to be learnt."""
    unequal_prompts: Literal["drop", "stop"] = "drop"
    """Preferences: chosen and rejected answer different questions."""
    equal_answers: Literal["drop", "stop"] = "drop"
    """Preferences: chosen and rejected are the same."""
    outer_space: Literal["keep", "repair", "drop", "stop"] = "keep"
    """White space before or after what is said; repaired by taking it away."""
    odd_space: Literal["keep", "repair", "drop", "stop"] = "keep"
    """No-break and zero-width spaces, U+2028, U+0085; repaired to a space, nothing or a new line."""
    mojibake: Literal["keep", "drop", "stop"] = "keep"
    """Characters lost in an earlier conversion: U+FFFD, or UTF-8 read as Latin-1."""
    control_token: Literal["keep", "drop", "stop"] = "keep"
    """What looks like a control token, such as <|im_end|>; kept as plain text, which no model reads as one."""
    duplicate: Literal["keep", "drop", "stop"] = "keep"
    """The same as an earlier record; dropped, the first stays."""
    unknown_character: Literal["keep", "drop", "stop"] = "keep"
    """Characters that the tokenizer has no token for."""
    template: Literal["drop", "repair", "stop"] = "drop"
    """What the chat template cannot express, such as tools; repaired by leaving out thinking, where it is that."""


class Data(Section):
    sources: list[Source] = Field(min_length=1)
    """What to train on."""
    packing: bool = True
    """Put samples one after another without padding, kept apart in attention and positions."""
    max_length: int = Field(2048, ge=8)
    """Longest sample, in tokens."""
    overlong: Literal["auto", "drop", "error", "cut_turns", "split", "cut"] = "auto"
    """What to do with a sample over max_length: drop it, stop, leave out its last turns, split it between turns, or
    shorten what the user says. "auto": drop conversations, split documents."""
    held_out: float | int = Field(0, ge=0)
    """Samples kept from training to measure the loss on: a share below 1, or a number. Duplicates stay together."""
    group_by_length: bool = False
    """Without packing: steps of samples of about the same length, which are padded less."""
    defects: Defects = Defects()
    """What is done about records that are not as they should be."""

    @model_validator(mode="after")
    def _grouped(self):
        if self.group_by_length and self.packing:
            raise conflict(
                "packed rows have no padding to save; set packing = False", "group_by_length", "packing"
            )
        return self
