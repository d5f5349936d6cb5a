"""What an encoded data set depends on, as one hash."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.data.files import data_files
from xtune.errors import UserError
from xtune.families.tokenizer import declared_tokens
from xtune.home import home, write_whole
from xtune.json_file import read_json_if_there
from xtune.recipe.schema import Data, Source
from xtune.templates.template import Template
from xtune.terminal import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Options of `data` and of a source that decide how samples are drawn, not what they are.
_DRAWN = {"sources", "packing", "held_out", "group_by_length"}
_WEIGHTS = {"weight", "count"}
# Below this a file is read faster than its hash is looked up.
_LARGE = 64 << 20


def cache_key(data: Data, tokenizer: PreTrainedTokenizerFast, template: Template, objective: str) -> str:
    """A hash of the files' contents, formats, options, objective, template, tokenizer and of the code that encodes."""
    digest = hashlib.sha256(_code_hash())
    for source in data.sources:
        digest.update(source.model_dump_json(exclude=_WEIGHTS).encode())
        for file in files_of(source):
            digest.update(file_hash(file))
    options = data.model_dump(exclude=_DRAWN) | {"grouped": data.held_out > 0, "objective": objective}
    options["declared_tokens"] = declared_tokens(tokenizer)
    for part in (json.dumps(options), json.dumps(asdict(template)), tokenizer.backend_tokenizer.to_str()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:32]


def files_of(source: Source) -> list[str]:
    """The files on disk that a source's samples depend on: its data, and a format of the user's."""
    file, is_own, _ = source.format.partition(".py:")
    own = [file + ".py"] if is_own else []
    try:
        return [*data_files(source.path, source.split), *own]
    except UserError:
        return own  # reading it says what is wrong


def file_hash(path: str) -> bytes:
    """SHA-256 of a file, b"" where it cannot be read. Of a large one it is kept, by the file's number, size and time
    of change."""
    try:
        about = os.stat(path)
        if about.st_size < _LARGE:
            return _read_hash(path)
        known = home() / "file_hashes" / f"{about.st_dev}-{about.st_ino}.json"
        stamp = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
        kept = read_json_if_there(known) or {}
        if kept.get("stamp") == stamp:
            return bytes.fromhex(kept["hash"])
        with progress(f"checking {os.path.basename(path)}", about.st_size, "bytes") as advance:
            content = _read_hash(path, advance)
        # A change so soon after this one might have the same time.
        if time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) > 2e9:
            known.parent.mkdir(parents=True, exist_ok=True)
            write_whole(known, json.dumps({"stamp": stamp, "hash": content.hex()}), by_many=True)
        return content
    except OSError:
        return b""  # reading it says what is wrong


def _read_hash(path: str, advance: Callable[[int], None] = lambda _: None) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.digest()


@cache
def _code_hash() -> bytes:
    """Of the code between a file and its ids, so that a corrected mapper never meets an old cache."""
    package = Path(__file__).parents[1]
    files = [*package.glob("data/**/*.py"), *package.glob("*.py"), *package.glob("templates/*.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).digest()
