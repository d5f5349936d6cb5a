"""A tiny model whose adapter says other things than it, tasks on disk, and `xtune eval` in this process."""

import json
from pathlib import Path

import pytest

QUESTIONS = [
    {"question": "What is the capital of France?", "choices": ["Paris", "London", "Rome"], "answer": 0},
    {
        "question": "And of Japan?",
        "choices": ["Seoul", "a city that is called Tokyo", "Beijing"],
        "answer": 1,
    },
    {
        "question": "Which city is the capital of Italy today?",
        "choices": ["Athens", "Oslo", "Rome"],
        "answer": 2,
    },
]
CHOICE = """\
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
WRITTEN = """\
task: capitals_written
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12}
metric_list: [{metric: exact_match}, {metric: chrf}]
"""
PROSE = """\
task: prose
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices | join(', ')}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory) -> Path:
    """Three tasks of the user's, and their data beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, content in {"capitals": CHOICE, "written": WRITTEN, "prose": PROSE}.items():
        (folder / f"{name}.yaml").write_text(content)
    (folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(make_adapter, tiny_model, tmp_path_factory) -> Path:
    return make_adapter(tiny_model, tmp_path_factory.mktemp("tiny_adapter"), scale=0.3)
