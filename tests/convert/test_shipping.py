"""What is made for Ollama, vLLM, LMDeploy and OpenCompass of a run, and the model cards beside it."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest
import yaml

from tests.families.conftest import published  # noqa: F401 (a fixture)
from xtune.convert.card import CARD, write_card
from xtune.convert.deploy import convert_for_server, serve_command
from xtune.convert.ollama import convert_ollama, modelfile
from xtune.convert.opencompass import convert_opencompass
from xtune.errors import UsageError
from xtune.run.directory import create_run
from xtune.run.target import find_target


@pytest.fixture(scope="module")
def run(tiny_model, make_adapter, tmp_path_factory):
    """A finished run on the tiny model."""
    from xtune.recipe.schema import Recipe

    folder = tmp_path_factory.mktemp("shipping")
    base = folder / "tiny-base"
    shutil.copytree(tiny_model, base)
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    (folder / "private.json").write_text('[{"instruction": "a", "output": "b"}]')
    recipe = Recipe.model_validate(
        {
            "name": "helper",
            "model": {"path": str(base)},
            "method": {"kind": "lora"},
            "data": {"sources": [{"path": str(folder / "private.json")}]},
            "probe": {"prompts": ["What | is it?"]},
        }
    )
    run = create_run(recipe, folder / "run")
    make_adapter(base, run.path / "adapter", scale=0.2)
    report = {
        "read": 1200,
        "kept": 1190,
        "repaired": 3,
        "rejected": 10,
        "formats": [{"path": "/x/private.json"}],
    }
    run.write_json("data_report.json", report)
    run.write_json("probe.json", [{"prompt": "What | is it?", "before": "?", "after": "A helper."}])
    lines = [{"step": i + 1, "loss": 3.0 - i, "tokens": 600, "tokens_per_second": 10.0} for i in range(3)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run.path


@pytest.fixture(scope="module")
def served(run):
    """The run as a directory for vLLM, and the command."""
    out = run.parent / "for-vllm"
    return out, convert_for_server(run, out, "vllm")


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_directory_loads_in_transformers_and_the_command_names_it(served):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, command = served
    assert AutoModelForCausalLM.from_pretrained(out).config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(out).chat_template
    words = shlex.split(command)
    assert words[:3] == ["vllm", "serve", str(out)]
    assert words[words.index("--chat-template") + 1] == str(out / "chat_template.jinja")
    assert words[words.index("--max-model-len") + 1] == "512"
    assert "--tool-call-parser" not in words  # the format has no calls
    assert command.replace(str(out), "path/to/this/directory") in (out / CARD).read_text()


def test_tools_are_read_by_the_servers_parser_of_that_format(served, tmp_path):
    out = tmp_path / "a model"
    shutil.copytree(served[0], out)
    (out / "xtune.json").write_text('{"template": "qwen2_5"}')
    vllm, lmdeploy = (shlex.split(serve_command(out, server)) for server in ("vllm", "lmdeploy"))
    assert vllm[2] == lmdeploy[3] == str(out)
    assert vllm[-3:] == ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    assert lmdeploy[-2:] == ["--tool-call-parser", "qwen"]


def test_card_of_a_run(served):
    card = (served[0] / CARD).read_text()
    facts = front(card)
    assert facts == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "mit",
        "tags": ["xtune", "lora"],
    }
    assert "# helper\n" in card
    assert "1,200 read, 1,190 kept, 3 repaired, 10 rejected" in card
    assert "3.000 at first, 1.000 at last" in card
    assert r"| What \| is it? | ? | A helper. |" in card
    assert 'path="private.json"' in card
    assert str(served[0].parent) not in card  # where files lie is nobody's business
    assert "tiny-base, goes on to hold (mit)" in card


def test_card_of_what_is_made_of_a_result_tells_the_same(served, tmp_path):
    done = convert_ollama(served[0], tmp_path / "Mine", "f32")
    card, before = (tmp_path / "Mine" / CARD).read_text(), (served[0] / CARD).read_text()
    assert front(card) == {**front(before), "library_name": "gguf"}
    assert (
        card.partition("# helper")[2].partition("## Use")[0]
        == before.partition("# helper")[2].partition("## Use")[0]
    )
    assert card.partition("## Licence")[2] == before.partition("## Licence")[2]
    assert "ollama create mine -f Modelfile\n" in card
    assert done.gguf.path.is_file()
    assert done.command == f"ollama create mine -f {tmp_path / 'Mine' / 'Modelfile'}"
    file = (tmp_path / "Mine" / "Modelfile").read_text()
    assert file.startswith('FROM ./model.gguf\nTEMPLATE """{{')
    assert 'PARAMETER stop "<|im_end|>"\n' in file


def test_card_of_a_model_without_a_run_invents_nothing(tiny_model, tmp_path):
    write_card(tmp_path / CARD, find_target(str(tiny_model)))
    card = (tmp_path / CARD).read_text()
    assert front(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["xtune"],
    }
    assert not re.search("Training|Answers|None", card)


def test_a_publishers_readme_is_left_alone(tiny_model, tmp_path):
    (tmp_path / CARD).write_text("# My model\n")
    write_card(tmp_path / CARD, find_target(str(tiny_model)))
    assert (tmp_path / CARD).read_text() == "# My model\n"


def test_ollama_writes_the_first_token_of_sentencepiece_models_itself(published):  # noqa: F811
    directory = published("internlm2")
    _, text = modelfile(find_target(str(directory)), directory)
    assert "<s>" not in text.replace("</s>", "")
    assert "<|im_start|>user\n{{ .Content }}" in text.replace('{{ if eq $last "" }}', "").replace(
        "{{ end }}", ""
    )


def test_a_format_with_numbered_rounds_has_no_template(published):  # noqa: F811
    from dataclasses import replace

    from xtune.templates.template import find_template

    target = find_target(str(published("chatglm3")))
    has_template, text = modelfile(replace(target, template=find_template("chatglm2")), published("chatglm3"))
    assert not has_template
    assert 'TEMPLATE "' not in text
    assert "# There is no TEMPLATE" in text


def test_opencompass_entry(served, run, tmp_path):
    out = convert_opencompass(served[0], tmp_path / "mine.py")
    code = out.read_text().replace("from opencompass.models import", "# ")
    found = {"HuggingFacewithChatTemplate": str}
    exec(code, found)
    (model,) = found["models"]
    assert model["path"] == str(served[0])
    assert model["stop_words"] == ["<|im_end|>"]
    assert model["max_seq_len"] == 512
    with pytest.raises(UsageError, match="whole model"):
        convert_opencompass(run, tmp_path / "other.py")
    with pytest.raises(UsageError, match="exists already"):
        convert_opencompass(served[0], out)


def test_reward_models_are_not_for_these_programs(served, tmp_path):
    directory = tmp_path / "reward"
    shutil.copytree(served[0], directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps({**config, "architectures": ["LlamaForSequenceClassification"], "num_labels": 1})
    )
    with pytest.raises(UsageError, match="scores answers"):
        convert_for_server(directory, tmp_path / "out", "vllm")


def test_lmdeploy_is_not_given_chatglm(published, tmp_path):  # noqa: F811
    with pytest.raises(UsageError, match="no class for ChatGLM"):
        convert_for_server(published("chatglm3"), tmp_path / "out", "lmdeploy")
    assert not list(tmp_path.iterdir())
