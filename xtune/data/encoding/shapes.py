"""Renders plain conversations without Jinja: each shape of them is tried out once, with stand-ins for what is said.

    user, assistant   ->   <|im_start|>  user\\n{0}  <|im_end|>  \\n  <|im_start|>  assistant\\n  {1}  <|im_end|>  \\n

Such a pattern holds for all conversations of the same roles, if the template only writes out what is said and does not
look into it: a stand-in tells when anything else than white space at its ends is touched, and then, as for
tools, thinking and whatever else is special, Jinja renders each conversation by itself. The first conversation of
each shape is rendered in both ways and compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

from xtune.data.encoding.pieces import Fixed, Piece
from xtune.errors import UserError
from xtune.messages import Message, Sample

_Part = str | tuple[int, bool, bool]
"""Text of the template's, or (number of the message, whether white space at its start and at its end is taken away)."""


class _Slot(NamedTuple):
    """A piece whose text is not all known; `last` is the last part where there are several."""

    parts: tuple[_Part, ...]
    continues: bool | None
    learnt: bool


class Shapes:
    """The patterns of one template.

    cut   the pieces of a sample, through Jinja
    fix   pieces, encoded
    """

    def __init__(self, cut: Callable[[Sample], list[Piece]], fix: Callable[[list[Piece]], Fixed]):
        self._cut, self._fix = cut, fix
        self._patterns: dict[tuple, list[Fixed | _Slot] | None] = {}

    def pieces(self, sample: Sample) -> list[Piece | Fixed]:
        """The pieces of a sample, as `cut` gives them, with what is always the same encoded. Raises what it raises."""
        shape = _shape(sample)
        if shape is None:
            return self._cut(sample)
        if shape not in self._patterns:
            pieces = self._cut(sample)
            pattern = self._pattern(sample)
            agrees = pattern and _fill(pattern, sample.messages) == pieces
            self._patterns[shape] = self._fixed(pattern) if agrees else None
            return pieces
        pattern = self._patterns[shape]
        return _fill(pattern, sample.messages) if pattern else self._cut(sample)

    def _pattern(self, sample: Sample) -> list[Piece | _Slot] | None:
        # Templates may take away all white space or only that of a kind.
        patterns = [self._pattern_with(sample, outermost) for outermost in (" ", "\n")]
        return patterns[0] if patterns[0] == patterns[1] else None

    def _pattern_with(self, sample: Sample, outermost: str) -> list[Piece | _Slot] | None:
        messages = tuple(
            Message(turn.role, StandIn.of(index, outermost), loss=turn.loss)
            for index, turn in enumerate(sample.messages)
        )
        try:
            pattern = [_slot(piece, outermost) for piece in self._cut(Sample(messages))]
        except (_LookedAtError, UserError):
            return None
        return None if None in pattern else pattern

    def _fixed(self, pattern: list[Piece | _Slot]) -> list[Fixed | _Slot]:
        fixed: list[Fixed | _Slot] = []
        for is_slot, run in groupby(pattern, lambda piece: isinstance(piece, _Slot)):
            pieces = list(run)
            fixed += pieces if is_slot else [self._fix(pieces)]
        return fixed


def _shape(sample: Sample) -> tuple | None:
    """What the template may depend on besides what is said; None where that is more than roles."""
    if sample.tools:
        return None
    shape: list = []
    for turn in sample.messages:
        content = turn.content
        if turn.reasoning is not None or turn.tool_calls or turn.name is not None or "</think>" in content:
            return None
        if not content or content.isspace():
            return None
        shape += (turn.role, turn.loss)
    return tuple(shape)


def _fill(pattern: list[Piece | Fixed | _Slot], messages: tuple[Message, ...]) -> list[Piece | Fixed]:
    pieces = []
    for piece in pattern:
        if type(piece) is _Slot:
            text = ""
            for part in piece.parts:
                if type(part) is str:
                    text += part
                else:
                    index, at_start, at_end = part
                    content = messages[index].content
                    if at_start:
                        content = content.lstrip()
                    text += content.rstrip() if at_end else content
            piece = Piece(text, piece.continues, piece.learnt)
        pieces.append(piece)
    return pieces


class _LookedAtError(Exception):
    """The template looks into what is said."""


class StandIn(str):
    """Stands for what is said. Its characters are such that hardly any filter leaves them as they are; its ends tell
    when it loses white space there, also together with other text."""

    index: int
    outermost: str

    @classmethod
    def of(cls, index: int, outermost: str) -> StandIn:
        """A stand-in whose ends are blank, with `outermost` as the last of them; "" for one without white space."""
        core = f"\ue000{index} \"<&'\\\n\n aB\u00e9\u0130\ue001"
        stand_in = cls(f"{outermost}{_BLANK}{core}{_BLANK}{outermost}" if outermost else core)
        stand_in.index, stand_in.outermost = index, outermost
        return stand_in

    def strip(self, chars=None):
        if chars is not None:
            raise _LookedAtError
        return StandIn.of(self.index, "") if self.outermost else self


def _looks(name: str):
    def method(*_, **__):
        raise _LookedAtError(name)

    return method


# Concatenation and what Python itself needs to hold a string are no looking into it.
_HARMLESS = {"__new__", "__init__", "__init_subclass__", "__subclasshook__", "__class__", "__getattribute__"}
_HARMLESS |= {
    "__setattr__",
    "__delattr__",
    "__add__",
    "__str__",
    "__repr__",
    "__reduce__",
    "__reduce_ex__",
    "__doc__",
}
for _name in set(dir(str)) - _HARMLESS - vars(StandIn).keys() - {"strip"}:
    setattr(StandIn, _name, _looks(_name))

_BLANK = "\u2003"  # a space that no template writes
_CORE = re.compile("\ue000(\\d+) \"<&'\\\\\n\n aB\u00e9\u0130\ue001")


def _slot(piece: Piece, outermost: str) -> Piece | _Slot | None:
    """The piece with stand-ins in it; None where one came out changed."""
    parts: list[_Part] = []
    position = 0
    before, after = outermost + _BLANK, _BLANK + outermost
    for found in _CORE.finditer(piece.text):
        text = piece.text[position : found.start()]
        whole_start = text.endswith(before)
        whole_end = piece.text.startswith(after, found.end())
        parts += (text.removesuffix(before), (int(found[1]), not whole_start, not whole_end))
        position = found.end() + whole_end * len(after)
    parts.append(piece.text[position:])
    if any(mark in part for part in parts if isinstance(part, str) for mark in ("\ue000", "\ue001", _BLANK)):
        return None
    if not position:
        return piece
    return _Slot(tuple(part for part in parts if part), piece.continues, piece.learnt)
