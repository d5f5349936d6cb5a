"""The commands of examples/your_own_family, in order, as its README has them; in this process, to save time."""

import re
import runpy
import shlex
import shutil
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.e2e.test_readme import commands
from xtune.cli.main import main

EXAMPLE = "examples/your_own_family"


@pytest.fixture(scope="module")
def after_the_commands(tmp_path_factory):
    """The copy of the example in which all commands ran, and what each printed."""
    torch.set_num_threads(1)  # so small a model is slower with more
    folder = tmp_path_factory.mktemp("example") / "mine"
    shutil.copytree(ROOT / EXAMPLE, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands(f"{EXAMPLE}/README.md"):
            import time

            print(command, time.time())
            program, *arguments = shlex.split(command)
            if program == "python":
                patch.setattr(sys, "argv", arguments)
                runpy.run_path(arguments[0], run_name="__main__")
            else:
                with pytest.raises(SystemExit) as ended:
                    main(arguments)
                assert ended.value.code == 0, command
    return folder


def test_it_comes_out_in_both_layouts(after_the_commands):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    before, after = (
        load_file(after_the_commands / name / "model.safetensors") for name in ("checkpoint", "merged")
    )
    assert {name: tensor.shape for name, tensor in before.items()} == {
        name: tensor.shape for name, tensor in after.items()
    }
    assert not before["trunk.blocks.0.attn.qkv.weight"].equal(after["trunk.blocks.0.attn.qkv.weight"])
    _, info = AutoModelForCausalLM.from_pretrained(after_the_commands / "native", output_loading_info=True)
    assert not any(info.values())


def test_the_run_finds_its_family_from_anywhere(after_the_commands, tmp_path, monkeypatch):
    from xtune.recipe.load import load_recipe

    monkeypatch.chdir(tmp_path)
    kept = load_recipe(after_the_commands / "run" / "recipe.py").model
    assert kept.family == str(after_the_commands / "my_family.py")
    assert kept.path == str(after_the_commands / "checkpoint")
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(after_the_commands / "run")])
    assert ended.value.code == 0


def test_paths_of_family_and_template_start_at_the_recipes_folder(tmp_path, monkeypatch):
    from xtune.recipe.load import load_recipe

    (tmp_path / "mine").mkdir()
    for name in ("f.py", "t.jinja"):
        (tmp_path / "mine" / name).touch()
    recipe = tmp_path / "mine" / "r.py"
    recipe.write_text(
        'model = dict(path="smollm2", family="f.py", template="t.jinja")\n'
        'method = dict(kind="lora")\n'
        'data = dict(sources=[dict(path="x.jsonl")])\n'
    )
    monkeypatch.chdir(tmp_path)
    model = load_recipe("mine/r.py").model
    assert (model.family, model.template) == (
        str(tmp_path / "mine/f.py"),
        str(tmp_path / "mine/t.jinja"),
    )
    assert (
        load_recipe("mine/r.py", {"model.family": "qwen", "model.template": "chatml"}).model.family == "qwen"
    )


def test_what_xtune_inspect_says_while_the_table_is_unfinished(after_the_commands, tmp_path, capsys):
    file = tmp_path / "unfinished.py"
    text = (after_the_commands / "my_family.py").read_text()
    unfinished = text.replace('    Rename(".ffn.up.", ".mlp.up_proj."),\n', "")
    assert unfinished != text
    file.write_text(unfinished)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(after_the_commands / "checkpoint"), "--family", str(file)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "Missing tensors (2): trunk.blocks.0.mlp.up_proj.weight" in told
    assert "without a place in the model (2): trunk.blocks.0.ffn.up.weight" in told


def test_the_page_of_families_names_all_with_their_options():
    from xtune.families import FAMILIES

    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    for family in FAMILIES:
        (row,) = re.findall(rf"^\| `{family.name}` \|.*$", page, re.M)
        assert all(f"`{option}`" in row for option in family.options)


@pytest.mark.parametrize("file", ["docs/families.md", f"{EXAMPLE}/README.md"])
def test_links_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / file).read_text(encoding="utf-8")):
        assert ((ROOT / file).parent / target).exists(), target
