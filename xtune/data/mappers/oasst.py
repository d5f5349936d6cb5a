"""OpenAssistant's trees (Köpf et al. 2023): from each the conversation that people ranked best.

A row is a message, {"message_id", "parent_id", "text", "role": "prompter" or "assistant", "rank", "deleted",
"review_result"}, or a whole tree, {"message_tree_id", "prompt": {"text", "role", "replies": [...]}}. From the first
message on, the reply of the lowest rank is followed. Of replies that are not, which are many, nothing is said; a
message that was deleted, failed its review or answers one that is not there is counted as broken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from xtune.data.files import Record
from xtune.data.findings import Findings, Reject
from xtune.data.mappers.mapper import Mapper, columns_of, is_preference, kind
from xtune.data.mappers.turns import read_turns
from xtune.messages import Sample

_COLUMNS = ("message_id", "parent_id", "text", "role")
_NOTHING = (None, "", "None", "nan")  # as tables write it

Node = dict[str, Any]


def gather(records: Iterator[Record]) -> Iterator[Record]:
    """A record {"thread": [message, ...]} for each tree, at the place of its first message.

    What is no message is passed on as it is. The messages of the whole file are held in memory.
    """
    nodes: dict[Any, Record] = {}
    replies: dict[Any, list[Node]] = defaultdict(list)
    for record in records:
        row = record.row
        if record.fault or not _is_message(row):
            yield record
        elif fault := _fault(row):
            yield _broken(record, fault)
        elif row["message_id"] in nodes:
            yield _broken(record, "a message stands twice")
        else:
            nodes[row["message_id"]] = record
            replies[_parent(row)].append(row)
    unreached = dict(nodes)
    for root in replies[None]:
        record, waiting = nodes[root["message_id"]], [root]
        while waiting:
            node = waiting.pop()
            del unreached[node["message_id"]]
            waiting += replies[node["message_id"]]
        thread = _best_path(root, lambda node: replies[node["message_id"]])
        yield replace(record, row={"thread": thread})
    for record in unreached.values():
        yield _broken(record, "a message answers one that is not there, or was left out")


def _is_message(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and all(column in row for column in _COLUMNS)
        and isinstance(row["message_id"], str)
    )


def _parent(row: Node) -> str | None:
    return None if row["parent_id"] in _NOTHING else str(row["parent_id"])


def _fault(row: Node) -> str:
    if str(row.get("deleted")).lower() in ("true", "1"):
        return "a message was deleted"
    return "a message failed its review" if str(row.get("review_result")).lower() in ("false", "0") else ""


def _broken(record: Record, fault: str) -> Record:
    return replace(record, row=None, fault=fault, detail=str(record.row["message_id"])[:60])


def _best_path(root: Node, replies_of: Callable[[Node], list[Node]]) -> list[Node]:
    path = [root]
    while replies := replies_of(path[-1]):
        path.append(min(replies, key=_rank))
    return path


def _rank(node: Node) -> float:
    """0 is best; a message without a rank comes last."""
    try:
        rank = float(node.get("rank"))
    except (TypeError, ValueError, OverflowError):
        return float("inf")
    return rank if rank == rank else float("inf")


def _replies(node: Node) -> list[Node]:
    """The usable replies inside a message of a nested tree."""
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise Reject("wrong_type", "replies is not a list of objects", kind(replies))
    return [reply for reply in replies if not _fault(reply)]


def _map(row: Any, found: Findings) -> Sample:
    row = columns_of(row)
    thread = row.get("thread")
    if "prompt" in row and isinstance(row["prompt"], dict):
        if fault := _fault(row["prompt"]):
            raise Reject("empty_question", fault)
        thread = _best_path(row["prompt"], _replies)
    if not isinstance(thread, list):
        raise Reject(
            "wrong_columns", "no message with message_id, parent_id, text and role, and no tree of them"
        )
    turns = [
        {"role": node.get("role"), "content": node.get("text")} if isinstance(node, dict) else node
        for node in thread
    ]
    return Sample(read_turns(turns, None, found))


def _fits(row: Any) -> bool:
    if not isinstance(row, dict) or is_preference(row):
        return False
    return _is_message(row) or ("message_tree_id" in row and isinstance(row.get("prompt"), dict))


OASST = Mapper(
    "oasst",
    "message_id, parent_id, text, role; or prompt{text, role, replies}",
    _fits,
    _map,
    gather=gather,
    aliases=("oasst1", "oasst2"),
)
