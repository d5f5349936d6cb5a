"""What every sample must be, whichever mapper it came from: turns from a question to an answer.

What can be put right without inventing or reordering words is repaired, and said; the rest is rejected, or as the
recipe's `data.defects` has it. Words are kept as they are, white space included.

    starts with the assistant or a tool   those turns are dropped
    same role twice in a row              joined by a blank line, calls into one list of parallel calls
    a turn without words                  the conversation ends before the exchange it is in; a pair, a labelled
                                          conversation or a prompt is rejected, whose label or answer is to the last
    ends without an answer                the turns after the last answer are cut
"""

from __future__ import annotations

from dataclasses import replace

from xtune.data.check_text import check_text
from xtune.data.findings import Findings, Reject
from xtune.messages import AnySample, Document, Labelled, Message, Pair, Sample

Messages = tuple[Message, ...]


def check(sample: AnySample, found: Findings) -> AnySample:
    """The sample, repaired where it had to be. Raises Reject where there is nothing to learn from it."""
    if isinstance(sample, Sample):
        messages = _conversation(sample.messages, found)
        return sample if messages == sample.messages else replace(sample, messages=messages)
    if isinstance(sample, Document):
        (text,) = check_text((Message("user", sample.text),), found)
        if not text.content.strip():
            raise Reject("empty_answer", "empty document")
        return _with(sample, text=text.content)
    found = _uncut(found)
    if isinstance(sample, Pair):
        return _check_pair(sample, found)
    if isinstance(sample, Labelled):
        return _with(sample, messages=_conversation(sample.messages, found))
    return _with(sample, messages=_open(sample.messages, found))


def _with(sample: AnySample, **changed) -> AnySample:
    same = all(getattr(sample, name) == value for name, value in changed.items())
    return sample if same else replace(sample, **changed)


def _uncut(found: Findings) -> Findings:
    """The same findings, but where turns would be cut at one without words the record is rejected."""
    actions = dict(found.actions)
    for defect in ("empty_question", "empty_answer"):
        actions[defect] = "stop" if actions[defect] == "stop" else "drop"
    strict = Findings(actions)
    strict.repairs, strict.notes = found.repairs, found.notes
    return strict


def _check_pair(pair: Pair, found: Findings) -> Pair:
    prompt = _open(pair.prompt, found)
    answers = []
    for answer in (pair.chosen, pair.rejected):
        whole = _conversation((*pair.prompt, *answer), found)
        if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            raise Reject("empty_answer", "empty answer")
        answers.append(whole[len(prompt) :])
    chosen, rejected = answers
    if chosen == rejected:
        raise Reject("equal_answers", "chosen and rejected are the same")
    return _with(pair, prompt=prompt, chosen=chosen, rejected=rejected)


def _open(messages: Messages, found: Findings) -> Messages:
    """A conversation that ends where an answer is wanted."""
    if messages and messages[-1].role == "assistant":
        raise Reject("wrong_type", "the prompt ends with an answer")
    return _conversation((*messages, Message("assistant", "answer")), found)[:-1]


def _conversation(messages: Messages, found: Findings) -> Messages:
    if not _is_plain(messages):
        messages = _put_right(messages, found)
    checked = check_text(messages, found)
    # Spaces that were put right may have been all there was of a turn.
    return checked if checked is messages else _conversation(checked, found)


def _is_plain(messages: Messages) -> bool:
    """Whether it is questions and answers in turns, all learnt, with nothing to put right: as most are."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    asks = True
    for turn in turns:
        if turn.role != ("user" if asks else "assistant") or not turn.content or turn.content.isspace():
            return False
        if not turn.loss:
            return False
        asks = not asks
    return asks and bool(turns)


def _put_right(messages: Messages, found: Findings) -> Messages:
    system, turns = _split_system(messages)
    turns = _drop_leading(turns, found)
    turns = _join_same_role(turns, found)
    turns = _cut_at_empty(turns, found)
    turns = _cut_tail(turns, found)
    if not turns:
        raise Reject("no_answer", "nothing to learn: no question with an answer")
    if not any(turn.loss for turn in turns if turn.role == "assistant"):
        raise Reject("no_loss", "no turn carries loss")
    return (*system, *turns)


def _split_system(messages: Messages) -> tuple[Messages, Messages]:
    # Several at the start are kept: InternLM2 has them.
    first = next((index for index, turn in enumerate(messages) if turn.role != "system"), len(messages))
    system, turns = messages[:first], messages[first:]
    if any(turn.role == "system" for turn in turns):
        raise Reject("late_system", "a system message after the first turn")
    return system, turns


def _drop_leading(turns: Messages, found: Findings) -> Messages:
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), len(turns))
    if first:
        whom = "the assistant" if turns[0].role == "assistant" else "a tool's result"
        found.repair("starts_with_answer", f"starts with {whom}", "dropped up to the first user turn")
    return turns[first:]


def _join_same_role(turns: Messages, found: Findings) -> Messages:
    joined: list[Message] = []
    for turn in turns:
        before = joined[-1] if joined else None
        if before and before.role == turn.role != "tool":
            found.repair("same_role_twice", f"{turn.role} twice in a row", "joined")
            joined[-1] = _join(before, turn)
        elif turn.role == "tool" and before and before.role == "user":
            raise Reject("misplaced_tool", "a tool's result after a user turn")
        else:
            joined.append(turn)
    return tuple(joined)


def _join(first: Message, second: Message) -> Message:
    # In one turn reasoning comes first, then words, then calls; what came in another order cannot be joined.
    if (second.reasoning and first.content) or (first.tool_calls and second.content):
        raise Reject("same_role_twice", "assistant turns in a row that cannot be joined")
    if first.loss != second.loss:
        raise Reject("same_role_twice", "assistant turns in a row, one with loss and one without")
    reasoning = "\n\n".join(filter(None, (first.reasoning, second.reasoning))) or None
    content = "\n\n".join(part for part in (first.content, second.content) if part.strip())
    return replace(
        first, content=content, reasoning=reasoning, tool_calls=first.tool_calls + second.tool_calls
    )


def _cut_at_empty(turns: Messages, found: Findings) -> Messages:
    # What follows an empty turn answers to something that is not there; a tool may well return nothing.
    for index, turn in enumerate(turns):
        if turn.role != "tool" and not turn.content.strip() and not turn.tool_calls:
            what = "answer" if turn.role == "assistant" else "question"
            start = max(before for before in range(index + 1) if turns[before].role == "user")
            if start == 0:
                raise Reject(f"empty_{what}", f"empty {what}")
            found.repair(f"empty_{what}", f"empty {what}", "cut there")
            return turns[:start]
    return turns


def _cut_tail(turns: Messages, found: Findings) -> Messages:
    end = next((index for index in range(len(turns), 0, -1) if turns[index - 1].role == "assistant"), 0)
    if 0 < end < len(turns):
        whom = "the user" if turns[-1].role == "user" else "a tool's result"
        found.repair("no_answer", f"ends with {whom}", "cut")
    return turns[:end]
