"""`xtune train --dry-run`: each thing that would spoil a run is found, told with a way out, and gives an exit code."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import QUICKSTART
from tests.training.test_estimate import said
from xtune.training import preflight

ROWS = QUICKSTART / "identity.jsonl"


@pytest.fixture
def dry_run(tiny_model, tmp_path, monkeypatch):
    """dry_run(model, data, **{"train.steps": 3}) gives the exit code, and the lines of the list."""
    monkeypatch.chdir(tmp_path)

    def run(model=tiny_model, data=ROWS, **options) -> tuple[int, list[str]]:
        (tmp_path / "recipe.py").write_text(
            f"model = dict(path={str(model)!r}, template='smollm2', dtype='float32')\nmethod = dict(kind='lora')\n"
            f"data = dict(sources=[dict(path={str(data)!r})])\ntrain = dict(batch_size=4)\n"
        )
        options = {"train.steps": 3, **options}
        sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
        code, out, err = said("train", "recipe.py", "--dry-run", *sets)
        return code, (out.partition("\n\n")[2] + err).splitlines()

    return run


def marked(lines: list[str], mark: str) -> dict[str, str]:
    """Subjects and facts of the lines with this mark."""
    return dict(line[2:].split(maxsplit=1) for line in lines if line.startswith(mark))


def test_all_is_well(dry_run, tmp_path):
    code, lines = dry_run()
    assert code == 0
    assert {line[0] for line in lines} == {"✓"}
    found = marked(lines, "✓")
    assert found["data"] == "80 of 80 records kept"
    assert found["stop"].startswith("100% of")
    assert found["adapter"].startswith("14 linear layers")
    assert {"loss", "template", "base", "length", "memory", "disk", "time"} <= found.keys()
    assert not (tmp_path / "runs").exists()


def test_a_base_that_is_not_whole(dry_run, tiny_model, tmp_path):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    code, lines = dry_run(base)
    assert code == 2
    assert "model.layers.1.mlp.up_proj.weight" in marked(lines, "✗")["base"]

    (base / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    code, lines = dry_run(base)
    assert code == 2
    assert "Git LFS pointer" in marked(lines, "✗")["base"]


def test_targets_that_are_not_there(dry_run):
    code, lines = dry_run(**{"method.targets": '["q_proj","wqkv"]'})
    assert code == 2
    assert "wqkv" in marked(lines, "✗")["adapter"]
    assert any("all-linear" in line for line in lines)


def test_texts_longer_than_the_model_knows(dry_run, tmp_path):
    turns = [("user", "Count."), ("assistant", " ".join(map(str, range(300))))]
    row = json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})
    (tmp_path / "long.jsonl").write_text(ROWS.read_text(encoding="utf-8") + row + "\n", encoding="utf-8")
    code, lines = dry_run(data="long.jsonl")
    assert code == 0
    assert marked(lines, "!")["length"].startswith("1 texts are longer than the 512 tokens")


def test_answers_that_do_not_end(dry_run, tmp_path):
    template = tmp_path / "endless.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    code, lines = dry_run(**{"model.template": template})
    told = "\n".join(lines)
    assert code in (2, 3)
    assert "stop" in told


def test_records_that_are_lost(dry_run, tmp_path):
    broken = ROWS.read_text(encoding="utf-8") + "{not JSON\n" * 20
    (tmp_path / "broken.jsonl").write_text(broken, encoding="utf-8")
    code, lines = dry_run(data="broken.jsonl")
    assert code == 0
    assert marked(lines, "!")["data"].startswith("80 of 100 records kept")
    assert any("xtune data check broken.jsonl" in line or "broken.jsonl" in line for line in lines)
    (tmp_path / "empty.jsonl").write_text("")
    code, _ = dry_run(data="empty.jsonl")
    assert code == 3


def test_too_little_memory_and_disk(dry_run, monkeypatch):
    device = preflight.this_device
    with monkeypatch.context() as patch:
        patch.setattr(
            preflight,
            "this_device",
            lambda recipe: device(recipe).__class__("a toy", False, 1000.0, True, "float32"),
        )
        code, lines = dry_run()
    assert code == 4
    assert "gradient_checkpointing" in "".join(lines) or "micro_batch_size" in "".join(lines)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage(10**6, 10**6, 0))
    code, lines = dry_run()
    assert code == 4
    assert "disk" in marked(lines, "✗")


def test_nothing_but_warm_up(dry_run):
    code, lines = dry_run(**{"train.steps": "None", "train.epochs": 1, "train.warmup": 500})
    assert code == 0
    assert "warm-up" in marked(lines, "!")
