"""`xtune eval`: the figures of a run are those of its training, and what cannot be measured is said."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from xtune.cli.main import main
from xtune.data.encoding.encode import NO_LABEL, Encoded
from xtune.evaluate.evaluate import Wanted, evaluate
from xtune.evaluate.losses import in_batches, text_losses
from xtune.model.fused import fuse
from xtune.model.load import load_model
from xtune.recipe.schema import Recipe
from xtune.training.train import train

WORDS = ["sun", "moon", "tree", "river", "stone", "cloud", "house", "green"]
ROWS = {
    "sft": [{"prompt": f"{word}?", "completion": f"{word} {other}"} for word in WORDS for other in WORDS[:3]],
    "pretrain": [{"text": f"{word} {other} " * 9} for word in WORDS for other in WORDS[:3]],
    "reward": [
        {"prompt": f"{word} {other}?", "chosen": f"{word} yes", "rejected": f"{word} no"}
        for word in WORDS
        for other in WORDS[:3]
    ],
}


def xtune(*arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code, out.getvalue(), err.getvalue()


def trained(folder: Path, base: Path, objective: str, method: str, **data) -> Path:
    """A finished run of two sources."""
    sources = []
    for name, rows in (("first", ROWS[objective][::2]), ("second", ROWS[objective][1::2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources.append({"path": str(folder / f"{name}.jsonl")})
    recipe = Recipe.model_validate(
        {
            "model": {"path": str(base), "dtype": "float32", "template": "smollm2"},
            "method": {"kind": method},
            "data": {"sources": sources, "max_length": 64, "held_out": 9, **data},
            "train": {"objective": objective, "batch_size": 4, "steps": 4, "lr": 1e-2},
        }
    )
    return train(recipe, run_dir=folder / "run").path


@pytest.fixture(scope="module")
def sft_run(tmp_path_factory, tiny_model) -> Path:
    return trained(tmp_path_factory.mktemp("sft"), tiny_model, "sft", "lora")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines()]


def test_the_loss_of_a_run_is_that_of_its_training(sft_run):
    code, printed, _ = xtune("eval", sft_run, "--json")
    *of_sources, total = json.loads(printed)["measurements"]
    assert code == 0
    assert sum(one["samples"] for one in of_sources) == total["samples"] == 9
    for model, line in zip(("base", "tuned"), (lines(sft_run)[0], lines(sft_run)[-1]), strict=True):
        figures = {name: by_model[model]["value"] for name, by_model in total["figures"].items()}
        assert figures["loss"] == pytest.approx(line["loss"], abs=1e-5)
        assert figures["perplexity"] == pytest.approx(math.exp(line["loss"]), rel=1e-5)
        tokens = [one["figures"]["tokens with loss"][model]["value"] for one in of_sources]
        losses = [one["figures"]["loss"][model]["value"] for one in of_sources]
        assert np.average(losses, weights=tokens) == pytest.approx(figures["loss"])


def test_figures_are_kept_beside_the_run(sft_run):
    before = {file.name for file in sft_run.glob("eval*.json")}
    code, printed, said = xtune("eval", sft_run, "--limit", 2)
    (new,) = {file.name for file in sft_run.glob("eval*.json")} - before
    assert code == 0
    assert f"written  {sft_run / new}" in said
    kept = json.loads((sft_run / new).read_text())
    assert list(kept["models"]) == ["base", "tuned"]
    assert kept["measurements"][0]["samples"] <= 2
    assert f"{kept['measurements'][0]['figures']['loss']['tuned']['value']:.4f}" in printed
    assert xtune("eval", sft_run, "--out", sft_run / new)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "method"), [("pretrain", "lora"), ("reward", "lora"), ("sft", "full")])
def test_other_runs_too(objective, method, tiny_model, tmp_path):
    run = trained(tmp_path, tiny_model, objective, method)
    total = evaluate([str(run)], Wanted()).measurements[-1]
    first, *_, last = lines(run)
    if objective == "reward":
        assert set(total.figures["accuracy"]) == {"tuned"}  # before, it had no head
        assert total.figures["accuracy"]["tuned"].value == pytest.approx(last["accuracy"])
        assert total.figures["margin"]["tuned"].value == pytest.approx(last["margin"], abs=1e-5)
    else:
        assert total.figures["loss"]["base"].value == pytest.approx(first["loss"], abs=1e-5)
        assert total.figures["loss"]["tuned"].value == pytest.approx(last["loss"], abs=1e-5)


def test_data_of_the_user_is_measured_by_kind(tiny_model, tiny_adapter, tmp_path):
    pairs, documents = tmp_path / "pairs.jsonl", tmp_path / "text.txt"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in ROWS["reward"]))
    documents.write_text("The sun is a star.\nThe moon is not.\n")
    wanted = Wanted(data=(str(pairs), str(documents)))
    first, second = evaluate([str(tiny_adapter)], wanted).measurements
    assert list(first.figures) == [
        "loss of chosen",
        "loss of rejected",
        "chosen likelier",
        "tokens with loss",
    ]
    assert list(second.figures) == ["loss", "perplexity", "tokens with loss"]
    assert first.figures["loss of chosen"]["base"] != first.figures["loss of chosen"]["tuned"]
    alone = evaluate([str(tiny_model)], wanted).measurements[1]
    (loss,) = alone.figures["loss"].values()
    assert loss.value == pytest.approx(second.figures["loss"]["base"].value, abs=1e-6)


def test_models_stand_side_by_side(tiny_model, tiny_adapter, sft_run):
    found = evaluate([str(tiny_model), str(sft_run), str(tiny_adapter)], Wanted(limit=3))
    assert list(found.models) == [tiny_model.name, "run", tiny_adapter.name]
    losses = {figure.value for figure in found.measurements[0].figures["loss"].values()}
    assert len(losses) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "neither a run, an adapter nor a model"),
        (["{tiny}"], "What is {tiny} to be measured on?"),
        (["{tiny}", "--data", "gone.jsonl"], "No such file"),
        (["{tiny}", "--data", "{prompts}"], "prompts without answers"),
        pytest.param(
            ["{tiny}", "--tasks", "capitls", "--include", "{tasks}"],
            "Did you mean 'capitals'?",
            marks=pytest.mark.slow,  # all tasks of the harness are looked through
        ),
        (["{tiny}", "--tasks", "capitals", "--include", "{tasks}/gone"], "There is no folder"),
        (["{tiny}", "--tasks", "{broken}"], "cannot be loaded: ScannerError"),
        (["{tiny}", "--tasks", "{lost}"], "is not there: Unable to find"),
        (["{tiny}", "--tasks", "{hub}"], "not on this machine"),
        (["{tiny}", "--data", "{prompts}", "--out", "{prompts}"], "exists already"),
    ],
)
def test_what_is_wrong_is_said(arguments, told, tiny_model, task_folder, tmp_path):
    described = (task_folder / "capitals.yaml").read_text()
    files = {
        "prompts": ("prompts.jsonl", '{"prompt": "Hi"}\n'),
        "broken": ("broken.yaml", "task: broken\n  x: ["),
        "lost": ("lost.yaml", described.replace("task: capitals", "task: lost")),
        "hub": ("hub.yaml", "task: hub\ndataset_path: nobody/nothing\ntest_split: test\ndoc_to_text: x\n"),
    }
    for name, content in files.values():
        (tmp_path / name).write_text(content)
    places = {name: tmp_path / file for name, (file, _) in files.items()}
    places |= {"tiny": tiny_model, "tasks": task_folder}
    code, printed, said = xtune("eval", *(one.format(**places) for one in arguments))
    assert (code in (2, 3), printed) == (True, "")
    assert told.format(**places) in said
    assert "Traceback" not in said


def test_data_that_has_changed_is_not_taken_for_held_out(sft_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(sft_run, run)
    with open(sft_run.parent / "first.jsonl", "a") as file:
        file.write(json.dumps(ROWS["sft"][0]) + "\n")
    try:
        code, _, said = xtune("eval", run)
    finally:
        rows = (sft_run.parent / "first.jsonl").read_text().splitlines(keepends=True)
        (sft_run.parent / "first.jsonl").write_text("".join(rows[:-1]))
    assert code == 3
    assert "first.jsonl has changed since this run was trained" in said


def test_without_the_harness_its_package_is_named(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    code, _, said = xtune("eval", tiny_model, "--tasks", "arc_easy")
    assert code == 2
    assert 'pip install "xtune[eval]"' in said


def test_tasks_before_and_after(tiny_model, tiny_adapter, task_folder):
    code, printed, said = xtune(
        "eval", tiny_adapter, "--tasks", f"capitals,capitals_written,{task_folder / 'prose.yaml'}",
        "--include", task_folder, "--json",
    )  # fmt: skip
    measured = {one["name"]: one for one in json.loads(printed)["measurements"]}
    assert code == 0
    assert set(measured) == {"capitals", "capitals_written", "prose"}
    assert {one["samples"] for one in measured.values()} == {3}
    perplexity = measured["prose"]["figures"]["word_perplexity"]
    assert perplexity["base"]["value"] != perplexity["tuned"]["value"]
    assert set(measured["capitals"]["figures"]) == {"acc", "acc_norm"}
    assert measured["capitals"]["figures"]["acc"]["tuned"].keys() == {"value", "stderr"}
    assert "%|" not in said  # the harness's own bars
    (alone,) = evaluate([str(tiny_model)], Wanted(tasks=[str(task_folder / "prose.yaml")])).measurements
    (figure,) = alone.figures["word_perplexity"].values()
    assert figure.value == pytest.approx(perplexity["base"]["value"])


@pytest.mark.slow
def test_figures_of_a_task_are_the_harnesss_own(task_folder, monkeypatch):
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from xtune.families.tokenizer import load_tokenizer

    monkeypatch.chdir(task_folder)
    names = ["capitals", "capitals_written", "prose"]
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=load_model("smollm2"), tokenizer=load_tokenizer("smollm2")),
        tasks=[str(task_folder / f"{name.removeprefix('capitals_')}.yaml") for name in names],
        task_manager=None,
        apply_chat_template=True,
        bootstrap_iters=0,
    )["results"]
    ours = evaluate(["smollm2"], Wanted(tasks=names, include=str(task_folder))).measurements
    for one in ours:
        for metric, figures in one.figures.items():
            assert figures["smollm2"].value == pytest.approx(
                theirs[one.name][f"{metric},none"], rel=1e-5, abs=1e-4
            )


@pytest.mark.parametrize("fused", [False, True])
def test_texts_are_as_likely_together_as_alone(tiny_model, fused):
    model = load_model(tiny_model, dtype="float32")
    if fused:
        fuse(model, ["loss"])
    rng = np.random.default_rng(0)
    texts = []
    for length in (2, 30, 31, 7, 64, 9, 30):
        ids = rng.integers(5, 1000, length).astype(np.int32)
        texts.append(Encoded(ids, np.where(rng.random(length) < 0.5, ids, NO_LABEL).astype(np.int32)))
    together = text_losses(model, texts, 2)
    assert together == pytest.approx([text_losses(model, [text], 2)[0] for text in texts], abs=1e-4)
    import torch

    with torch.no_grad():
        logits = model(torch.from_numpy(texts[4].input_ids.astype(np.int64))[None]).logits[0, :-1]
    at = np.flatnonzero(texts[4].labels[1:] != NO_LABEL)
    expected = -logits.log_softmax(-1)[at, texts[4].labels[1:][at].tolist()].sum()
    assert together[4] == pytest.approx(float(expected), abs=1e-4)


def test_batches_hold_each_text_once_and_little_padding(tiny_model):
    lengths = np.random.default_rng(1).integers(1, 500, 300).tolist() + [5000]
    batches = in_batches(lengths, load_model(tiny_model, device="cpu"))
    assert sorted(sum(batches, [])) == list(range(301))
    assert batches[0] == [300]
    assert len(batches) < 150
    for batch in batches[1:]:
        longest = max(lengths[place] for place in batch)
        assert len(batch) * longest <= 1024
        assert min(lengths[place] for place in batch) >= 0.75 * longest
