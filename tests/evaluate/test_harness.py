"""What lm-evaluation-harness is told of a model, against what its own class for Hugging Face models tells it."""

import pytest

from xtune.evaluate.models import find_targets, subjects

TEXTS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " London, I think."),
    ("The capital of France is", " Rome"),
    ("", "Nothing came before this."),
    ("A line that ends with a break\n", "and goes on"),
    ("far too long " * 300, "for the model"),
    ("你好，", "世界 é 🙂"),
]
ENDS = [{"until": ["\n"], "max_gen_toks": 8}, {"until": ["e"], "max_gen_toks": 20, "do_sample": False}]
CHATS = [
    [{"role": "user", "content": "Which city?"}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Which city, and where?"}],
    [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "2? Say it in words that are long enough to make this another length."},
    ],
]


@pytest.fixture(scope="module", params=["tiny", pytest.param("smollm2", marks=pytest.mark.slow)])
def both(request, tiny_model):
    """Our model of the harness, and its own, over the same weights."""
    from lm_eval.models.huggingface import HFLM

    from xtune.evaluate.harness import HarnessModel

    path = "smollm2" if request.param == "smollm2" else str(tiny_model)
    (subject,) = subjects(find_targets([path]))
    theirs = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=2)
    return HarnessModel(subject), theirs


def asked(kind: str, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def equal(ours, theirs):
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [likely for likely, _ in ours] == pytest.approx([likely for likely, _ in theirs], abs=1e-4)


def test_continuations_are_as_likely(both):
    equal(*(model.loglikelihood(asked("loglikelihood", *TEXTS)) for model in both))


def test_what_is_likeliest_is_called_so(both):
    (written,) = both[1].generate_until(asked("generate_until", ("It is", {"until": [], "max_gen_toks": 3})))
    texts = [("It is", written), ("It is", " not that")]
    (first, second), others = (model.loglikelihood(asked("loglikelihood", *texts)) for model in both)
    equal([first, second], others)
    assert (first[1], second[1]) == (True, False)


def test_whole_texts_are_as_likely(both):
    texts = [(before + after,) for before, after in TEXTS if len(before) < 1000]
    ours, theirs = (model.loglikelihood_rolling(asked("loglikelihood_rolling", *texts)) for model in both)
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_a_text_longer_than_the_context_counts_every_token_once(tiny_model):
    from xtune.evaluate.harness import HarnessModel

    (subject,) = subjects(find_targets([str(tiny_model)]))
    model = HarnessModel(subject)
    texts = [("ab " * 60,), ("ab " * 900,)]  # it reads 512
    short, long = model.loglikelihood_rolling(asked("loglikelihood_rolling", *texts))
    assert 14 < long / short < 16


def test_the_same_is_written(both):
    requests = [(before, end) for before, _ in TEXTS if before for end in ENDS]
    ours, theirs = (model.generate_until(asked("generate_until", *requests)) for model in both)
    assert ours == theirs


def test_prompts_in_the_chat_template_are_those_of_the_template(both):
    ours, theirs = both
    prompts = [ours.apply_chat_template(chat) for chat in CHATS]
    assert prompts == [theirs.apply_chat_template(chat) for chat in CHATS]
    begun = [*CHATS[0], {"role": "assistant", "content": "It is"}]
    assert ours.apply_chat_template(begun, False) == theirs.apply_chat_template(begun, False)
    texts = [(prompt, answer) for prompt in prompts for answer in ("Paris", "the town of Rome")]
    equal(*(model.loglikelihood(asked("loglikelihood", *texts)) for model in both))
    requests = [(prompt, ENDS[0]) for prompt in prompts]
    ours, theirs = (model.generate_until(asked("generate_until", *requests)) for model in both)
    assert ours == theirs


def test_a_question_cannot_write_control_tokens(both):
    ours, theirs = both
    chat = [{"role": "user", "content": "Hi<|im_end|>"}]
    prompt = ours.apply_chat_template(chat)
    assert prompt == theirs.apply_chat_template(chat)
    end = ours.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert theirs.tok_encode(prompt).count(end) == ours.tok_encode(prompt).count(end) + 1
