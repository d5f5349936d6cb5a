"""Configs in XTuner 0.1's style become recipes that say the same, and what they cannot say is told."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from xtune.cli.main import main
from xtune.data.recognise import find_mapper
from xtune.errors import RecipeError, UsageError
from xtune.recipe.legacy.data import FORMATS
from xtune.recipe.legacy.import_config import WITHOUT_COUNTERPART, import_recipe
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Recipe
from xtune.templates.template import find_template

PROMPT_TEMPLATES = (
    *("default", "zephyr", "internlm_chat", "internlm2_chat", "moss_sft", "llama2_chat", "code_llama_chat"),
    *(
        "chatglm2",
        "chatglm3",
        "qwen_chat",
        "baichuan_chat",
        "baichuan2_chat",
        "wizardlm",
        "wizardcoder",
        "vicuna",
    ),
    *(
        "deepseek_coder",
        "deepseekcoder",
        "deepseek_moe",
        "deepseek_v2",
        "mistral",
        "mixtral",
        "minicpm",
        "gemma",
    ),
    *("cohere_chat", "llama3_chat", "phi3_chat"),
)
"""All that XTuner 0.1.23 has."""

QLORA = """
import torch
from datasets import load_dataset
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from xtuner.dataset import ConcatDataset, process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.map_fns import alpaca_map_fn, openai_map_fn, pretrain_map_fn, template_map_fn_factory
from xtuner.engine.hooks import DatasetInfoHook, EvaluateChatHook
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune
from xtuner.utils import PROMPT_TEMPLATE, SYSTEM_TEMPLATE

path = "models/internlm2-chat-7b"
epochs, accumulative_counts, packed, length = 2, 8, True, 4096
tokenizer = dict(
    type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=path, trust_remote_code=True, padding_side="right"
)
llm = dict(
    type=AutoModelForCausalLM.from_pretrained,
    pretrained_model_name_or_path=path,
    trust_remote_code=True,
    torch_dtype=torch.float16,
)
nf4 = dict(
    type=BitsAndBytesConfig,
    load_in_4bit=True,
    load_in_8bit=False,
    llm_int8_threshold=6.0,
    llm_int8_has_fp16_weight=False,
    bnb_4bit_compute_dtype=torch.float16,
    bnb_4bit_use_double_quant=True,
    bnb_4bit_quant_type="nf4",
)
lora = dict(
    type=LoraConfig, r=32, lora_alpha=64, lora_dropout=0.05, target_modules=["wqkv", "wo"], task_type="CAUSAL_LM"
)
model = dict(type=SupervisedFinetune, use_varlen_attn=False, llm=dict(**llm, quantization_config=nf4), lora=lora)
data = dict(
    type=process_hf_dataset,
    dataset=dict(type=load_dataset, path="json", data_files=dict(train="data/mine.json")),
    tokenizer=tokenizer,
    max_length=length,
    dataset_map_fn=alpaca_map_fn,
    template_map_fn=dict(type=template_map_fn_factory, template=PROMPT_TEMPLATE.internlm2_chat),
    remove_unused_columns=True,
    shuffle_before_pack=True,
    pack_to_max_length=packed,
)
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    dataset=data,
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=default_collate_fn),
)
optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    clip_grad=dict(max_norm=0.5, error_if_nonfinite=False),
    accumulative_counts=accumulative_counts,
    loss_scale="dynamic",
    dtype="float16",
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-5, by_epoch=True, begin=0, end=0.1 * epochs, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=True, begin=0.1 * epochs, end=epochs),
]
train_cfg = dict(type=TrainLoop, max_epochs=epochs)
custom_hooks = [
    dict(type=DatasetInfoHook, tokenizer=tokenizer),
    dict(
        type=EvaluateChatHook,
        tokenizer=tokenizer,
        every_n_iters=500,
        evaluation_inputs=["Who are you?"],
        system="You are small.",
        prompt_template=PROMPT_TEMPLATE.internlm2_chat,
    ),
]
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, log_metric_by_epoch=False, interval=10),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=400, max_keep_ckpts=3),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend="nccl"))
visualizer = None
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=7, deterministic=False)
log_processor = dict(by_epoch=False)
"""


@pytest.fixture
def imported(tmp_path):
    """imported(lines) is the recipe of the config above with these lines behind it, loaded, and the notes on it."""

    def load(lines: str = "", base: str = QLORA) -> tuple[Recipe, str]:
        old, out = tmp_path / "old.py", tmp_path / "new.py"
        old.write_text(f"{base}\n{dedent(lines)}", encoding="utf-8")
        done = import_recipe(old)
        out.write_text(done.source, encoding="utf-8")
        for note in done.notes:
            assert note[:40] in done.source
        return load_recipe(out), "\n".join(done.notes)

    return load


def test_all_that_a_config_says_is_said(imported):
    recipe, notes = imported()
    assert (recipe.model.path, recipe.model.template) == ("models/internlm2-chat-7b", "internlm2_chat")
    method = recipe.method
    assert (method.kind, method.rank, method.alpha, method.dropout, method.bits) == ("qlora", 32, 64, 0.05, 4)
    assert method.targets == ["q_proj", "k_proj", "v_proj", "o_proj"]
    (source,) = recipe.data.sources
    assert (source.path, source.format, recipe.data.max_length) == ("data/mine.json", "alpaca", 4096)
    train = recipe.train
    assert (train.batch_tokens, train.lr, train.weight_decay, train.max_grad_norm) == (
        2 * 8 * 4096,
        1e-4,
        0.1,
        0.5,
    )
    assert (train.epochs, train.warmup, train.schedule, train.seed) == (2, 0.1, "cosine", 7)
    assert (train.checkpoint_every, train.keep_checkpoints) == (50, 3)  # iterations / accumulative_counts
    assert (recipe.probe.prompts, recipe.probe.system) == (["Who are you?"], "You are small.")
    assert [note.split(" = ")[0] for note in notes.splitlines()] == [
        "batch_size",
        "EvaluateChatHook.every_n_iters",
    ]


DICTS = {
    "model": "model",
    "model['llm']": "model.llm",
    "model['llm']['quantization_config']": "model.llm.quantization_config",
    "model['lora']": "model.lora",
    "train_dataloader": "train_dataloader",
    "data": "train_dataloader.dataset",
    "data['dataset']": "train_dataloader.dataset.dataset",
    "optim_wrapper": "optim_wrapper",
    "optim_wrapper['optimizer']": "optim_wrapper.optimizer",
    "optim_wrapper['clip_grad']": "optim_wrapper.clip_grad",
    "param_scheduler[1]": "param_scheduler.1",
    "train_cfg": "train_cfg",
    "custom_hooks[1]": "custom_hooks.1",
    "default_hooks": "default_hooks",
    "default_hooks['checkpoint']": "default_hooks.checkpoint",
    "randomness": "randomness",
}


def test_nothing_is_dropped_silently(imported):
    _, notes = imported("\n".join(f"{stated}['unheard_of'] = 7" for stated in DICTS))
    for key in DICTS.values():
        assert f"{key}.unheard_of = 7" in notes, key


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("optim_wrapper['optimizer']['betas'] = (0.9, 0.95)", "betas = [0.9, 0.95]"),
        ("optim_wrapper['optimizer']['type'] = 'prodigy.Prodigy'", "type = 'Prodigy': adamw takes its place"),
        ("param_scheduler[1]['eta_min'] = 1e-6", "eta_min = 1e-06"),
        ("model['lora']['bias'] = 'all'", "model.lora.bias = 'all'"),
        ("custom_hooks[1]['system'] = SYSTEM_TEMPLATE.alpaca", "SYSTEM_TEMPLATE.alpaca': left out"),
        ("val_dataloader = dict(batch_size=1)", "val_dataloader = {'batch_size': 1}: data.held_out"),
        ("optim_wrapper = 5", "optim_wrapper = 5"),
        ("load_from = 'iter_1.pth'", "load_from = 'iter_1.pth': `xtune convert pth`"),
        ("tokenizer['pretrained_model_name_or_path'] = 'other'", "the tokenizer is the model's own"),
        ("tokenizer['additional_special_tokens'] = ['<x>']", "additional_special_tokens = ['<x>']"),
        ("train_dataloader['sampler']['shuffle'] = False", "sampler.shuffle = False"),
        (
            "strategy = dict(type='DeepSpeedStrategy', zero_optimization=dict(stage=3, sub_group_size=1))",
            "sub_group_size",
        ),
        ("resume = True", "resume = True: `xtune train --resume"),
        ("custom_hooks.append(dict(type='my.Hook', a=1))", "custom_hooks.2.a = 1: xtune has no hooks"),
        ("data['template_map_fn']['template'] = PROMPT_TEMPLATE.minicpm", "PROMPT_TEMPLATE.minicpm'"),
        ("model['max_position_embeddings'] = 65536", 'rope_scaling = dict(type="linear"'),
        ("model['llm']['quantization_config']['bnb_4bit_quant_type'] = 'fp4'", "xtune has 'nf4'"),
        ("del optim_wrapper['clip_grad']", "clip_grad = None"),
    ],
)
def test_what_has_no_counterpart_is_told(imported, line, told):
    assert told in imported(line)[1]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("model = dict(type=SupervisedFinetune, llm=llm)", {"method": "full"}),
        ("model = dict(type=SupervisedFinetune, llm=llm, lora=lora)", {"method": "lora"}),
        (
            "data['pack_to_max_length'] = False",
            {"batch_size": 16, "micro_batch_size": 2, "batch_tokens": None},
        ),
        ("train_cfg = dict(type=TrainLoop, max_iters=100)", {"steps": 13}),
        ("sequence_parallel_size = 4", {"sequence_parallel": 4}),
        (
            "strategy = dict(type='DeepSpeedStrategy', config='deepspeed_zero3_offload.json')",
            {"deepspeed": "zero3_offload"},
        ),
        (
            "strategy = dict(type='DeepSpeedStrategy', config=dict(zero_optimization=dict(stage=2)))",
            {"deepspeed": "zero2"},
        ),
        ("default_hooks['checkpoint']['max_keep_ckpts'] = -1", {"keep_checkpoints": 1_000_000}),
        ("param_scheduler = []", {"schedule": "constant", "warmup": 0}),
        ("model['use_activation_checkpointing'] = False", {"gradient_checkpointing": False}),
        ("data['dataset_map_fn'] = pretrain_map_fn; del data['template_map_fn']", {"objective": "pretrain"}),
        ("data['dataset_map_fn'] = None", {"formats": ["xtuner"]}),
        (
            "two = dict(type=process_hf_dataset, dataset_map_fn=openai_map_fn, max_length=8192, split='test',\n"
            "    dataset=dict(type=load_dataset, path='owner/chats'), max_dataset_length=50)\n"
            "train_dataloader['dataset'] = dict(type=ConcatDataset, datasets=[data, two])",
            {"formats": ["alpaca", "messages"], "batch_tokens": 2 * 8 * 8192},
        ),
        (
            "train_dataloader['dataset'] = dict(type=ConcatDataset, datasets_cfg=dict(one=data, two=data))",
            {"formats": ["alpaca", "alpaca"]},
        ),
        (
            "train_dataloader['dataset'] = dict(type='xtuner.dataset.MOSSSFTDataset', data_file='moss.jsonl')",
            {"formats": ["moss"]},
        ),
    ],
)
def test_other_kinds_of_configs(imported, lines, expected):
    recipe, _ = imported(lines)
    said = {
        **recipe.train.model_dump(),
        "method": recipe.method.kind,
        "objective": recipe.train.objective.kind,
        "formats": [source.format for source in recipe.data.sources],
    }
    assert {name: said[name] for name in expected} == expected


PREFERENCES = """
from xtuner.dataset.preference_dataset import build_preference_dataset, orpo_dpo_mix_40k_map_fn
data = dict(
    type=build_preference_dataset,
    dataset=dict(type=load_dataset, path="owner/pairs"),
    dataset_map_fn=orpo_dpo_mix_40k_map_fn,
    max_length=1024,
    is_dpo=True,
    is_reward=False,
    reward_token_id=None,
    use_varlen_attn=True,
    max_packed_length=8192,
)
train_dataloader["dataset"] = data
"""


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "type='xtuner.model.dpo.DPO', loss_type='sppo_hard', beta=0.3, ref_llm=llm",
            {"kind": "dpo", "loss": "sppo", "beta": 0.3},
        ),
        ("type='xtuner.model.orpo.ORPO', beta=0.2", {"kind": "orpo", "weight": 0.2}),
        (
            "type='xtuner.model.reward.RewardModel', loss_type='focal', reward_token_id=92527",
            {"kind": "reward", "loss": "focal", "barrier": 0.01, "read_at": "[UNUSED_TOKEN_130]"},
        ),
    ],
)
def test_preferences(imported, model, expected):
    recipe, _ = imported(f"{PREFERENCES}\nmodel = dict({model}, llm=llm, lora=lora)")
    objective = recipe.train.objective.model_dump()
    assert {name: objective[name] for name in expected} == expected
    assert (recipe.data.sources[0].format, recipe.data.max_length) == ("pairs", 1024)
    assert recipe.train.batch_tokens == 2 * 8 * 8192
    assert bool(recipe.probe.prompts) == (expected["kind"] != "reward")


def test_configs_for_the_trainer_of_hugging_face(imported):
    recipe, _ = imported(
        base=QLORA.partition("model = dict(")[0],
        lines="""
        framework = "huggingface"
        model = dict(**llm, load_in_8bit=True)
        train_dataset = dict(
            type=process_hf_dataset, dataset=dict(type=load_dataset, path="owner/rows"), dataset_map_fn=alpaca_map_fn,
            max_length=1024, pack_to_max_length=True)
        training_args = dict(
            type="TrainingArguments", learning_rate=3e-4, per_device_train_batch_size=2, gradient_accumulation_steps=4,
            num_train_epochs=2, warmup_steps=100, lr_scheduler_type="cosine", save_steps=50, optim="adamw_torch")
        """,
    )
    train = recipe.train
    assert (recipe.method.kind, recipe.method.bits, recipe.method.rank) == ("qlora", 8, 32)
    assert (train.lr, train.batch_tokens, train.epochs, train.warmup) == (3e-4, 8192, 2, 100)
    assert (train.schedule, train.checkpoint_every) == ("cosine", 50)


def test_base_files_and_map_functions_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "common.py").write_text(QLORA, encoding="utf-8")
    (tmp_path / "my_maps.py").write_text(
        'def to_turns(row):\n    return {"conversation": [{"input": row["q"], "output": row["a"]}]}\n'
    )
    old = tmp_path / "old.py"
    old.write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n    from .common import *\n    from .my_maps import to_turns\n"
        "train_dataloader['dataset']['dataset_map_fn'] = to_turns\n"
        "model.update(dict(lora=dict(r=5)))\n",
        encoding="utf-8",
    )
    (tmp_path / "new.py").write_text(import_recipe(old).source, encoding="utf-8")
    recipe = load_recipe(tmp_path / "new.py")
    assert recipe.method.rank == 5
    assert recipe.data.sources[0].format == f"{tmp_path / 'my_maps.py'}:to_turns"
    row = find_mapper(recipe.data.sources[0].format).map({"q": "1?", "a": "1."}, {})[0]
    assert [turn.content for turn in row.messages] == ["1?", "1."]


def test_a_config_as_mmengine_writes_it_into_a_runs_folder(tmp_path):
    from mmengine.config import Config

    old = tmp_path / "old.py"
    old.write_text(QLORA, encoding="utf-8")
    (tmp_path / "dumped").mkdir()
    dumped = tmp_path / "dumped" / "old.py"
    dumped.write_text(Config.fromfile(str(old)).pretty_text, encoding="utf-8")
    assert import_recipe(dumped).source == import_recipe(old).source


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("model = dict(type='xtuner.model.LLaVAModel', llm=llm)", "sees images"),
        ("model = dict(type='my.Model', llm=llm)", "kind of model is not known"),
        ("data['do_dataset_tokenization'] = False", "tokens of one tokenizer"),
        ("data['type'] = 'my.Dataset'", "kind of dataset is not known"),
        ("del train_dataloader['dataset']", "kind of dataset is not known"),
        ("del model['llm']", "no path"),
        ("model['lora']['type'] = 'peft.PromptTuningConfig'", "only adapters here are LoRA's"),
        ("del model", "no config of XTuner 0.1"),
        ("train_dataloader['batch_size'] = 'many'", "batch_tokens"),
        ("param_scheduler[0]['end'] = 'soon'", "not what XTuner has"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_a_reason(imported, lines, told):
    with pytest.raises((UsageError, RecipeError), match=told):
        imported(lines)


def test_an_old_config_is_not_taken_for_a_recipe(tmp_path):
    (tmp_path / "old.py").write_text(QLORA, encoding="utf-8")
    with pytest.raises(RecipeError, match="xtune recipes import"):
        load_recipe(tmp_path / "old.py")


@pytest.mark.parametrize(
    "text", ["1 +", "import xtuner\nx = xtuner.f() + 1", "raise SystemExit(3)", "\0", "x = y"]
)
def test_a_file_that_does_not_run_is_an_error(tmp_path, text):
    (tmp_path / "old.py").write_text(text)
    with pytest.raises((RecipeError, UsageError), match=r"old\.py"):
        import_recipe(tmp_path / "old.py")


def test_names_are_those_of_xtune():
    for function, name in FORMATS.items():
        mapper = find_mapper(name)
        assert mapper.name == name
        assert function in mapper.aliases or function.endswith("_dpo_map_fn") or "mix_40k" in function
    for name in PROMPT_TEMPLATES:
        assert (name in WITHOUT_COUNTERPART) or find_template(name)
    assert set(WITHOUT_COUNTERPART) < set(PROMPT_TEMPLATES)


def test_the_command_writes_a_file_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("old.py").write_text(QLORA, encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["recipes", "import", *arguments])
        return ended.value.code, *capsys.readouterr()

    code, out, err = run("old.py")
    assert code == 0
    assert "note: batch_size = 2, accumulative_counts = 8" in err
    assert run("old.py", "new.py")[:2] == (0, "wrote new.py\nnext: xtune train new.py --dry-run\n")
    assert Path("new.py").read_text(encoding="utf-8") == out
    code, _, err = run("old.py", "new.py")
    assert code == 2
    assert "already there" in err
