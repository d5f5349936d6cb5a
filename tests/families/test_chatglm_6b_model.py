"""ChatGLM-6B against what its publisher's code gave (tests/fixtures/parity/chatglm_6b), and against itself."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xtune.families.chatglm_6b_model import CACHE, ChatGlm6BForCausalLM, native_config, rotation

FIXTURE = Path(__file__).parents[1] / "fixtures" / "parity" / "chatglm_6b"
EXPECTED = load_file(FIXTURE / "expected.safetensors")
RENAMED = {
    "transformer.word_embeddings": "model.embed_tokens",
    "transformer.final_layernorm": "model.norm",
    "transformer.layers": "model.layers",
    "attention.dense": "self_attn.o_proj",
    "dense_h_to_4h": "up_proj",
    "dense_4h_to_h": "down_proj",
}


def published_config() -> dict:
    return json.loads((FIXTURE / "checkpoint" / "config.json").read_text())


def native_weights(heads: int) -> dict[str, torch.Tensor]:
    """The published weights under native names, in float32; rows of query_key_value lie head by head: q, k, v."""
    weights = {}
    for file in sorted((FIXTURE / "checkpoint").glob("*.bin")):
        for name, tensor in torch.load(file).items():
            for old, new in RENAMED.items():
                name = name.replace(old, new)
            if "query_key_value" in name:
                for letter, part in zip("qkv", grouped(tensor.float(), heads).unbind(1), strict=True):
                    new = name.replace("attention.query_key_value", f"self_attn.{letter}_proj")
                    weights[new] = part.reshape(-1, *tensor.shape[1:])
            elif "inv_freq" not in name:
                weights[name] = tensor.float()
    return weights


def grouped(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    return tensor.reshape(heads, 3, -1, *tensor.shape[1:])


@pytest.fixture
def model() -> ChatGlm6BForCausalLM:
    """Built on the meta device, as from_pretrained does: nothing may depend on tensors made there."""
    config = native_config(published_config())
    with torch.device("meta"):
        model = ChatGlm6BForCausalLM(config)
    model.load_state_dict(native_weights(config.num_attention_heads), assign=True)
    return model.eval()


def logits(model, input_ids, **options) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids, **options).logits


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("case", "key", "stride"),
    [("short", "logits", 1), ("masked", "logits_stride2", 2), ("long", "logits_stride12", 12)],
)
def test_logits_are_the_publishers(model, case, key, stride):
    close(logits(model, EXPECTED[f"{case}.input_ids"])[:, ::stride], EXPECTED[f"{case}.{key}"])


def test_left_padding(model):
    mask = EXPECTED["padded.attention_mask"]
    actual = logits(model, EXPECTED["padded.input_ids"], attention_mask=mask)
    assert actual.isfinite().all()
    close(actual[mask == 1], EXPECTED["padded.logits"][mask == 1])


def test_right_padding_is_as_none(model):
    row = EXPECTED["short.input_ids"][:1]
    padded = torch.nn.functional.pad(row, (0, 5), value=model.config.pad_token_id)
    actual = logits(model, padded, attention_mask=(torch.arange(padded.shape[1]) < row.shape[1]).long()[None])
    close(actual[:, : row.shape[1]], logits(model, row))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_the_publishers(model, checkpointing):
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = EXPECTED["train.input_ids"]
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    close(loss.detach().reshape(1), EXPECTED["train.loss"])
    attention, heads = model.model.layers[0].self_attn, model.config.num_attention_heads
    for kind, key in (("weight", "train.grad_first_qkv"), ("bias", "train.grad_first_qkv_bias")):
        parts = grouped(EXPECTED[key], heads).unbind(1)
        for projection, part in zip(
            (attention.q_proj, attention.k_proj, attention.v_proj), parts, strict=True
        ):
            gradient = getattr(projection, kind).grad
            close(gradient, part.reshape(gradient.shape), 1e-6)


def test_loss_on_the_answer_alone(model):
    model.train()
    loss = model(EXPECTED["answer.input_ids"], labels=EXPECTED["answer.labels"]).loss
    loss.backward()
    close(loss.detach().reshape(1), EXPECTED["answer.loss"])
    gradient = model.model.layers[0].input_layernorm.weight.grad
    close(gradient, EXPECTED["answer.grad_first_layernorm"], 1e-6)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("case", ["greedy", "greedy_padded"])
def test_greedy_answers_are_the_publishers(model, case, use_cache):
    prompt = EXPECTED[f"{case}.input_ids"]
    answer = model.generate(
        prompt,
        attention_mask=EXPECTED.get(f"{case}.attention_mask", torch.ones_like(prompt)),
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=None,
        use_cache=use_cache,
    )
    assert answer.tolist() == EXPECTED[f"{case}.output_ids"].tolist()


@pytest.mark.parametrize("how", [{"do_sample": True}, {"num_beams": 3}])
def test_other_ways_to_generate(model, how):
    prompt, mask = EXPECTED["greedy_padded.input_ids"], EXPECTED["greedy_padded.attention_mask"]
    answers = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        options = {"max_new_tokens": 6, "eos_token_id": None, "use_cache": use_cache, **how}
        answers.append(model.generate(prompt, attention_mask=mask, **options).tolist())
    assert answers[0] == answers[1]


def test_a_cache_remembers_its_own_prompts(model):
    """Two conversations take turns on one model."""
    rows = [EXPECTED["short.input_ids"][:1], EXPECTED["long.input_ids"][:, :90]]
    caches = [model(row[:, :-2], use_cache=True)[CACHE] for row in rows]
    for column in (-2, -1):
        for row, cache in zip(rows, caches, strict=True):
            mask = torch.ones(1, row.shape[1] + column + 1)
            last = logits(model, row[:, [column]], attention_mask=mask, past_key_values=cache)
            close(last[:, 0], logits(model, row)[:, column])


def test_packed_samples_are_as_alone(model):
    samples = [EXPECTED["short.input_ids"][0], EXPECTED["masked.input_ids"][0], EXPECTED["long.input_ids"][0]]
    lengths = [len(sample) for sample in samples]
    row = torch.cat(samples)[None]
    alone = torch.cat([logits(model, sample[None])[0] for sample in samples])
    close(logits(model, row, sample_lengths=lengths)[0], alone)
    kept = torch.tensor([0, 12, 30])
    close(logits(model, row, sample_lengths=lengths, logits_to_keep=kept)[0], alone[kept])
    assert logits(model, row, sample_lengths=lengths, logits_to_keep=2).shape[:2] == (1, 2)


def test_packed_samples_train_as_alone(model):
    samples = [EXPECTED["short.input_ids"][0], EXPECTED["masked.input_ids"][0]]
    model.train()
    weight = model.model.layers[0].self_attn.k_proj.weight
    gradients = []
    for inputs in (
        [(torch.cat(samples)[None], [len(sample) for sample in samples])],
        [(sample[None], [len(sample)]) for sample in samples],
    ):
        weight.grad = None
        for row, lengths in inputs:
            (model(row, sample_lengths=lengths).logits.pow(2).sum() / 10_000).backward()
        gradients.append(weight.grad)
    assert gradients[0].abs().max() > 1e-3
    close(*gradients, 1e-6)


def test_a_sample_without_a_prompt_is_refused(model):
    with pytest.raises(ValueError, match=r"\[gMASK\] or \[MASK\], and <sop>"):
        model(torch.tensor([[10, 11, 12]]))
    whole = EXPECTED["short.input_ids"][0]
    with pytest.raises(ValueError, match="<sop>"):
        model(torch.cat([whole, whole[:3]])[None], sample_lengths=[len(whole), 3])


def test_float16_angles_are_rounded_as_the_publishers():
    cos, _ = rotation(torch.tensor([[[1999], [0]]]), 16, torch.float16)
    frequencies = (1.0 / 10000 ** (torch.arange(0, 8, 2).float() / 8)).half()
    assert torch.equal(cos[0, 0, 0, 0, :4], (torch.tensor(1999.0).half() * frequencies).cos())


def test_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = ChatGlm6BForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.config.to_diff_dict().items() >= model.config.to_diff_dict().items()
    tokens = EXPECTED["short.input_ids"]
    assert torch.equal(logits(loaded.eval(), tokens), logits(model, tokens))


def test_lora(model):
    import peft

    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    tokens, labels = EXPECTED["answer.input_ids"], EXPECTED["answer.labels"]
    loss = adapted(input_ids=tokens, labels=labels).loss
    loss.backward()
    close(loss.detach().reshape(1), EXPECTED["answer.loss"])  # B starts at zero
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    assert adapted.get_base_model().get_input_embeddings() is model.model.embed_tokens


def test_qlora(model, tmp_path):
    import peft
    from transformers import BitsAndBytesConfig

    model.save_pretrained(tmp_path)
    quantised = ChatGlm6BForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map={"": "cpu"}
    ).train()
    adapted = peft.get_peft_model(quantised, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    loss = adapted(input_ids=EXPECTED["answer.input_ids"], labels=EXPECTED["answer.labels"]).loss
    loss.backward()
    close(loss.detach().reshape(1), EXPECTED["answer.loss"], 0.1)
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


def test_attention_choices(model):
    model.set_attn_implementation("sdpa")
    model.set_attn_implementation("eager")
    with pytest.raises((ValueError, ImportError)):
        model.set_attn_implementation("flash_attention_2")


def test_older_config_files_leave_out_ids():
    published = published_config()
    for name in ("mask_token_id", "gmask_token_id", "pad_token_id"):
        del published[name]
    config = native_config(published | {"bos_token_id": 150004, "eos_token_id": 150005})
    assert (config.mask_token_id, config.gmask_token_id, config.pad_token_id) == (150000, 150001, None)
