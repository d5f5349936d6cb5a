"""What users get wrong: each one message on stderr that says what, where and what to do, and the right exit code."""

import json
import shutil

import pytest

from xtune.cli.main import main

RECIPE = """
model = dict(path={model!r}, template="smollm2")
method = dict(kind="lora")
data = dict(sources=[dict(path={data!r})], max_length=64)
train = dict(steps={steps}, batch_size=2, checkpoint_every=2)
"""
ROWS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]}
    for n in range(9)
]


@pytest.fixture
def refused(tmp_path, tiny_model, monkeypatch, capsys):
    """refused(code, rows=…, model=…) trains and returns the error, having checked its form and exit code."""
    monkeypatch.chdir(tmp_path)

    def refused(code, rows=ROWS, model=tiny_model, data="rows.jsonl", args=(), steps=3) -> str:
        if rows is not None:
            text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "rows.jsonl").write_text(text)
        (tmp_path / "r.py").write_text(RECIPE.format(model=str(model), data=data, steps=steps))
        with pytest.raises(SystemExit) as ended:
            main(["train", "r.py", "--run-dir", "run", *args])
        told = capsys.readouterr().err
        assert ended.value.code == code, told
        assert "Traceback" not in told
        error = told[told.index("error: ") :]
        assert "fix: " in error
        return error

    return refused


def test_no_such_model(refused):
    assert "No model at" in refused(2, model="/no/such/model")


def test_a_directory_that_holds_no_model(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(2, model=tmp_path / "empty")


def test_a_model_with_a_tensor_missing(refused, tmp_path, tiny_model):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert "missing tensors: model.layers.1.mlp.up_proj.weight" in refused(2, model=broken)


def test_a_weight_file_cut_short(refused, tmp_path, tiny_model):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert str(broken) in refused(2, model=broken)


def test_no_such_data_file(refused):
    assert "nowhere.jsonl" in refused(3, data="nowhere.jsonl")


def test_an_empty_data_file(refused):
    assert "empty" in refused(3, rows="")


def test_data_in_which_nothing_carries_loss(refused):
    rows = [{"messages": [*row["messages"][:1], {**row["messages"][1], "loss": False}]} for row in ROWS]
    error = refused(3, rows=rows)
    assert "9" in error
    assert "loss" in error


def test_data_longer_than_max_length(refused):
    rows = [{"messages": [{"role": "user", "content": "why " * 99}, {"role": "assistant", "content": "so"}]}]
    assert "longer than max_length" in refused(3, rows=rows)


def test_targets_that_match_nothing_are_refused_and_leave_nothing(refused, tmp_path):
    assert "q_proj" in refused(2, args=["--set", "method.targets=['nope']"])
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_is_told_from_a_bug():
    import torch

    from xtune.model.load import is_out_of_memory

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_resuming_what_is_no_run(xtune, tmp_path):
    done = xtune("train", "--resume", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "There is no run" in done.stderr
