"""Whole model directories in their publishers' layout: weights and tokenizer of the fixtures put together."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from xtune.families.family import Options

FIXTURES = Path(__file__).parents[1] / "fixtures"
PARITY = FIXTURES / "parity"
NAMES = sorted(path.parent.name for path in PARITY.glob("*/checkpoint"))

# Where the tokenizer lies of those that share one.
_TOKENIZERS = {
    "baichuan2_13b": PARITY / "baichuan2_7b" / "checkpoint",
    "baichuan_7b": PARITY / "baichuan_13b" / "checkpoint",
    "chatglm2": PARITY / "chatglm3" / "checkpoint",
    "chatglm2_32k": PARITY / "chatglm3" / "checkpoint",
    "chatglm_6b": FIXTURES / "tokenizers" / "chatglm_6b",
    "glm4": FIXTURES / "tokenizers" / "glm4",
    "internlm2_linear": PARITY / "internlm2" / "checkpoint",
    "internlm_dynamic": PARITY / "internlm" / "checkpoint",
}


def options_of(name: str) -> Options:
    """What a user would set by hand, since a shrunken config.json does not tell."""
    hints = json.loads((PARITY / name / "hints.json").read_text())
    known = {field.name for field in fields(Options)}
    return Options(**{key: value for key, value in hints.items() if key in known})


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """published(name) is a directory as a user would download it."""

    def directory(name: str) -> Path:
        target = tmp_path_factory.getbasetemp() / "published" / name
        if not target.is_dir():
            shutil.copytree(PARITY / name / "checkpoint", target)
            for pattern in ("*token*", "*.model", "generation_config.json"):
                for file in _TOKENIZERS.get(name, target).glob(pattern):
                    if not (target / file.name).exists():
                        shutil.copyfile(file, target / file.name)
            (target / "modeling_of_publisher.py").write_text("# the publisher's code\n")
        return target

    return directory
