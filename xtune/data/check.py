"""What every conversation must be, whichever mapper it came from: turns from a question to an answer.

What can be put right without inventing or reordering words is repaired, and said; the rest is rejected. Words
are kept as they are, white space included.

    starts with the assistant or a tool   those turns are dropped
    same role twice in a row              joined by a blank line, calls into one list of parallel calls
    a turn without words                  the conversation ends before the exchange it is in
    ends without an answer                the turns after the last answer are cut
"""

from __future__ import annotations

from dataclasses import replace

from xtune.data.mappers.mapper import Mapped, Reject
from xtune.messages import Message


def check(mapped: Mapped) -> Mapped:
    """The conversation, repaired where it had to be. Raises Reject if there is nothing to learn from it."""
    repairs = list(mapped.repairs)
    system, turns = _split_system(mapped.messages)
    turns = _drop_leading(turns, repairs)
    turns = _join_same_role(turns, repairs)
    turns = _cut_at_empty(turns, repairs)
    turns = _cut_tail(turns, repairs)
    if not turns:
        raise Reject("nothing to learn: no question with an answer")
    if not any(turn.loss for turn in turns if turn.role == "assistant"):
        raise Reject("no turn carries loss")
    return Mapped((*system, *turns), mapped.tools, tuple(dict.fromkeys(repairs)))


def _split_system(messages: tuple[Message, ...]) -> tuple[list[Message], list[Message]]:
    # Several at the start are kept: InternLM2 has them.
    first = next((index for index, turn in enumerate(messages) if turn.role != "system"), len(messages))
    system, turns = list(messages[:first]), list(messages[first:])
    if any(turn.role == "system" for turn in turns):
        raise Reject("a system message after the first turn")
    return system, turns


def _drop_leading(turns: list[Message], repairs: list[str]) -> list[Message]:
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), len(turns))
    if first:
        whom = "the assistant" if turns[0].role == "assistant" else "a tool's result"
        repairs.append(f"starts with {whom}: dropped up to the first user turn")
    return turns[first:]


def _join_same_role(turns: list[Message], repairs: list[str]) -> list[Message]:
    joined: list[Message] = []
    for turn in turns:
        before = joined[-1] if joined else None
        if before and before.role == turn.role != "tool":
            repairs.append(f"{turn.role} twice in a row: joined")
            joined[-1] = _join(before, turn)
        elif turn.role == "tool" and before and before.role == "user":
            raise Reject("a tool's result after a user turn")
        else:
            joined.append(turn)
    return joined


def _join(first: Message, second: Message) -> Message:
    # In one turn reasoning comes first, then words, then calls; what came in another order cannot be joined.
    if (second.reasoning and first.content) or (first.tool_calls and second.content):
        raise Reject("assistant turns in a row that cannot be joined")
    if first.loss != second.loss:
        raise Reject("assistant turns in a row, one with loss and one without")
    reasoning = "\n\n".join(filter(None, (first.reasoning, second.reasoning))) or None
    content = "\n\n".join(part for part in (first.content, second.content) if part.strip())
    return replace(
        first, content=content, reasoning=reasoning, tool_calls=first.tool_calls + second.tool_calls
    )


def _cut_at_empty(turns: list[Message], repairs: list[str]) -> list[Message]:
    # What follows an empty turn answers to something that is not there; a tool may well return nothing.
    for index, turn in enumerate(turns):
        if turn.role != "tool" and not turn.content.strip() and not turn.tool_calls:
            what = "answer" if turn.role == "assistant" else "question"
            start = max(before for before in range(index + 1) if turns[before].role == "user")
            if start == 0:
                raise Reject(f"empty {what}")
            repairs.append(f"empty {what}: cut there")
            return turns[:start]
    return turns


def _cut_tail(turns: list[Message], repairs: list[str]) -> list[Message]:
    end = next((index for index in range(len(turns), 0, -1) if turns[index - 1].role == "assistant"), 0)
    if 0 < end < len(turns):
        whom = "the user" if turns[-1].role == "user" else "a tool's result"
        repairs.append(f"ends with {whom}: cut")
    return turns[:end]
