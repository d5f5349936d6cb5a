"""Losses and gradients are TRL's on the same answers: ORPO, SimPO, CPO, KTO, GRPO and RLOO (DPO: test_preference).

Of TRL's trainers for pairs and labelled answers only what their losses read is set.
"""

from __future__ import annotations

import json
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xtune.data.dataset import load_dataset
from xtune.data.encoding.encode import NO_LABEL
from xtune.model.adapters import attach_adapter
from xtune.model.attention import use_packed_attention
from xtune.model.load import load_model
from xtune.model.log_probs import answer_log_probs
from xtune.recipe.objective_schema import Cpo, Kto, Orpo, Simpo
from xtune.recipe.online_schema import Grpo, Rloo
from xtune.recipe.schema import Data, Lora
from xtune.templates.template import find_template
from xtune.training.kto import LabelledAnswers
from xtune.training.layout import Layout
from xtune.training.online import Online
from xtune.training.preference import Preference
from xtune.training.preference_losses import reference_free_loss
from xtune.training.reference import Reference
from xtune.training.rewards import Judge
from xtune.training.rollout import Completion, Sampling

pytestmark = pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'")
ONE_PROCESS = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value)


@pytest.fixture
def load(tmp_path, tokenizer):
    """load(rows, objective): the data set of these rows."""

    def make(rows, objective):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_dataset(
            Data(sources=[{"path": str(file)}]), tokenizer, find_template("smollm2"), objective
        )

    return make


def move(weights) -> None:
    """Change them at random."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in weights:
            weight += 0.02 * torch.randn_like(weight)


def trainer(kind, **attributes):
    """A trainer of TRL's with no more than these attributes."""
    made = kind.__new__(kind)
    vars(made).update(accelerator=ONE_PROCESS, aux_loss_enabled=False, **attributes)
    return made


def trls(options):
    """TRL's trainer with the same options."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    common = {"is_encoder_decoder": False, "pad_token_id": 2, "padding_value": 2}
    if isinstance(options, Orpo):
        return trainer(ORPOTrainer, beta=options.weight, **common)
    if isinstance(options, Simpo):
        kind = {"loss_type": "simpo", "simpo_gamma": options.margin, "cpo_alpha": 0}
    else:
        kind = {"loss_type": "sigmoid", "cpo_alpha": options.sft_weight}
    return trainer(CPOTrainer, beta=options.beta, alpha=0.0, label_smoothing=0.0, **kind, **common)


REFERENCE_FREE = [
    Orpo(kind="orpo", weight=0.3),
    Simpo(kind="simpo", beta=2.5, margin=1.5),
    Cpo(kind="cpo", beta=0.4, sft_weight=0.7),
]


@pytest.mark.parametrize("options", REFERENCE_FREE, ids=lambda options: options.kind)
def test_losses_without_a_reference_are_trls(options):
    """From unlikely answers to ones that are nearly certain, and of unlike lengths."""
    torch.manual_seed(0)
    lengths = torch.randint(1, 40, (2, 200))
    means = -torch.logspace(-4, 1.2, 200)[torch.stack([torch.randperm(200) for _ in range(2)])]
    summed = (means * lengths).requires_grad_()
    ours = reference_free_loss(options, *summed, tuple(lengths))
    each = summed if isinstance(options, Cpo) else summed / lengths
    trl = trls(options)
    theirs = -trl.odds_ratio_loss(*each)[0] if isinstance(options, Orpo) else trl.cpo_loss(*each)[0]
    next_token = {"orpo": 1, "simpo": 0, "cpo": 0.7}[options.kind]
    theirs = theirs - next_token * summed[0] / lengths[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    one, other = (torch.autograd.grad(losses.sum(), summed, retain_graph=True) for losses in (ours, theirs))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("options", REFERENCE_FREE, ids=lambda options: options.kind)
def test_pairs_are_scored_as_by_trl(load, tiny_model, tokenizer, options, packing):
    """TRL's get a pair at a time, as they average the next-token loss over the tokens of a batch, xtune over its pairs.
    In ORPO, TRL's is over the prompt too: then what transformers has over the answer."""
    rows = [
        {
            "prompt": "Why? " * n,
            "chosen": f"It is blue{' and more' * n}.",
            "rejected": f"No{' red' * (4 - n)}!",
        }
        for n in range(1, 5)
    ]
    dataset = load(rows, options.kind)
    model = load_model(tiny_model, dtype="float32")
    move(model.parameters())
    objective, layout = Preference(options, dataset), Layout(packing, tokenizer.pad_token_id)
    theirs, told, samples = [], [], list(range(len(dataset)))
    for sample in samples:
        batch = {}
        for name, text in zip(("chosen", "rejected"), objective.texts(sample), strict=True):
            ids, labels = (
                torch.from_numpy(part.astype(np.int64))[None] for part in (text.input_ids, text.labels)
            )
            batch |= {f"{name}_input_ids": ids, f"{name}_labels": labels}
            batch[f"{name}_attention_mask"] = torch.ones_like(ids)
        loss, figures = trls(options).get_batch_loss_metrics(model, batch)
        if isinstance(options, Orpo):
            own = model(batch["chosen_input_ids"], labels=batch["chosen_labels"]).loss
            loss = loss - figures["nll_loss"] + own
        theirs.append(loss)
        told.append(figures)
    if packing:
        use_packed_attention(model)
    batch = layout.collate([text for sample in samples for text in objective.texts(sample)])
    result = objective.loss(model, {**batch, "samples": samples})
    torch.testing.assert_close(result.total, sum(theirs), rtol=1e-5, atol=1e-5)
    for ours, name in {
        "chosen": "chosen",
        "rejected": "rejected",
        "margin": "margins",
        "accuracy": "accuracies",
    }.items():
        total, count = result.figures[f"rewards/{ours}"]
        assert float(total) / count == pytest.approx(
            np.mean([figures[f"rewards/{name}"] for figures in told]), rel=1e-5, abs=1e-5
        )


@pytest.mark.parametrize(("moved", "packing"), [("policy", False), ("reference", True)])
def test_kto_is_trls(load, tiny_model, tokenizer, tmp_path, moved, packing):
    """Also where the distance from the reference, an estimate, is below 0 and taken for 0: of the moved policy."""
    from trl import KTOTrainer
    from trl.trainer.utils import add_fused_lm_head

    rows = [
        {"prompt": f"{'Is it? ' * n}{n}", "completion": f"It is{' not' * n} {n}.", "label": n in (1, 4)}
        for n in range(5)
    ]
    dataset = load(rows, "kto")
    models = [load_model(tiny_model, dtype="float32").eval() for _ in range(2)]
    move(models[0].parameters())
    policy, before = models if moved == "policy" else models[::-1]
    add_fused_lm_head(policy, outputs=("log_probs", "entropy", "mean_logits"))
    add_fused_lm_head(before)
    padded, layout = (Layout(packed, tokenizer.pad_token_id) for packed in (False, packing))
    options = Kto(kind="kto", beta=0.4, good_weight=1.5, bad_weight=0.5)
    objective = LabelledAnswers(options, dataset, Reference(tmp_path / "reference", len(dataset)), layout)
    samples = list(range(len(dataset)))
    texts = [text for sample in samples for text in objective.texts(sample)]
    others = [objective.with_answer_of_another(sample) for sample in samples]

    batch, known = {"label": torch.tensor(dataset.good[samples])}, []
    for prefix, part in ("", texts), ("KL_", others):
        tensors = padded.collate(part)
        batch |= {f"{prefix}{name}": tensors[name] for name in ("input_ids", "attention_mask")}
        batch[f"{prefix}completion_mask"] = (tensors["labels"] != NO_LABEL).long()
        with torch.no_grad():
            known.append(answer_log_probs(before, tensors, len(part))[0])
    told = defaultdict(list)
    kto = trainer(
        KTOTrainer,
        model=policy,
        ref_model=before,
        loss_type="kto",
        beta=options.beta,
        desirable_weight=options.good_weight,
        undesirable_weight=options.bad_weight,
        calculate_KL=True,
        precompute_ref_logps=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        _metrics={"eval": told},
        _total_train_tokens=0,
    )
    theirs = kto._compute_loss(policy, batch, False)
    theirs = theirs, *torch.autograd.grad(theirs, list(policy.parameters()))

    objective.reference.values[:] = torch.stack(known, 1).numpy()
    if packing:
        use_packed_attention(policy)
    result = objective.loss(
        policy, {**layout.collate(texts), "samples": samples, "share": [samples[:3], samples[3:]]}
    )
    ours = result.total / len(samples)
    ours = ours, *torch.autograd.grad(ours, list(policy.parameters()))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert (told["kl"][0] > 0) == (moved == "reference")
    for name, key in {
        "kl": "kl",
        "rewards/good": "rewards/chosen",
        "rewards/bad": "rewards/rejected",
    }.items():
        total, count = result.figures[name]
        assert float(total) / count == pytest.approx(told[key][0], rel=1e-5, abs=1e-5)


EOS = 2  # of SmolLM2's tokenizer
ANSWERS = [[5, 6, 7, EOS], [8, EOS], [9, 10, 11, 12, 13], [14, EOS], [15, 16, EOS], [17, 18, 19, 20, 21, EOS]]
REWARDS = [1.0, 0.0, 3.5, -1.0, 2.0, 2.5], [0.5, 1.0, 0.0, 4.0, 0.0, 1.0]
WEIGHTS = 1.0, 0.5


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("grpo", {}),
        ("grpo", {"scale_rewards": False, "mask_truncated": True}),
        ("grpo", {"kl": 0.3}),
        ("grpo", {"kl": 0.3, "mask_truncated": True}),
        ("rloo", {"mask_truncated": True}),
        ("rloo", {"kl": 0.3}),
        ("rloo", {"kl": 0.3, "mask_truncated": True}),
    ],
)
def test_online_losses_are_trls(load, tiny_model, tokenizer, tmp_path, monkeypatch, kind, changes):
    """From rewards to gradients, on three answers to each of two prompts, the third of which is cut off."""
    import trl
    from datasets import Dataset as Table

    dataset = load([{"prompt": "What is it?"}, {"prompt": "Is it this one or that one?"}], kind)
    options = (Grpo if kind == "grpo" else Rloo)(
        kind=kind, rewards=["answer"], completions=3, temperature=0.7, **changes
    )
    judges = [lambda *_, values=values, **__: values for values in REWARDS]
    model = attach_adapter(load_model(tiny_model, dtype="float32"), Lora(kind="lora", rank=4)).eval()

    class OnTheseAnswers(getattr(trl, f"{kind.upper()}Trainer")):
        def _tokenize_prompts(self, prompts):
            return [dataset.texts(int(prompt))[0].input_ids.tolist() for prompt in prompts], None, {}

        def _generate_single_turn(self, *_):
            return (ANSWERS, None) if kind == "grpo" else ANSWERS

    own = {"loss_type": "dapo", "scale_rewards": options.scale_rewards} if kind == "grpo" else {}
    arguments = getattr(trl, f"{kind.upper()}Config")(
        output_dir=str(tmp_path),
        per_device_train_batch_size=len(ANSWERS),
        num_generations=options.completions,
        beta=options.kl,
        temperature=options.temperature,
        mask_truncated_completions=options.mask_truncated,
        reward_weights=list(WEIGHTS),
        gradient_checkpointing=False,
        report_to=[],
        use_cpu=True,
        bf16=False,
        **own,
    )
    rows = [{"prompt": str(sample)} for sample in (0, 1) for _ in range(options.completions)]
    trls = OnTheseAnswers(
        model, judges, arguments, train_dataset=Table.from_list(rows), processing_class=tokenizer
    )
    # By now TRL has a copy of the adapter for its reference: the model before training.
    weights = [weight for name, weight in model.named_parameters() if ".default." in name]
    move(weights)
    inputs = trls._generate_and_score_completions(rows)
    theirs = trls._compute_loss(model, inputs)
    gradients = torch.autograd.grad(theirs, weights)
    learnt = torch.tensor([ids[-1] == EOS or not options.mask_truncated for ids in ANSWERS])
    if kind == "rloo":  # TRL's loss has the advantages of masked answers too, as constants
        theirs = theirs + inputs["advantages"][~learnt].sum() / len(ANSWERS)

    monkeypatch.setattr(
        "xtune.training.online.sample_completions",
        lambda *_, **__: [Completion(np.array(ids), ids[-1] == EOS) for ids in ANSWERS],
    )
    for packing in False, True:
        layout = Layout(packing, tokenizer.pad_token_id)
        if packing:
            use_packed_attention(model.get_base_model())
        objective = Online(
            options,
            dataset,
            layout,
            tokenizer,
            Sampling(8, options.temperature, [EOS], tokenizer.pad_token_id, batch=8),
            [Judge(str(weight), weight, judge) for weight, judge in zip(WEIGHTS, judges, strict=True)],
            conditions=[None],
            seed=0,
            file=tmp_path / "completions.jsonl",
        )
        results = [  # in a forward pass for each prompt
            objective.loss(model, {**layout.collate(objective.texts(sample)), "samples": [sample], **first})
            for sample, first in ((0, {"share": [[0], [1]]}), (1, {}))
        ]
        ours = sum(result.total for result in results) / objective.weight([0, 1])
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.autograd.grad(ours, weights), gradients, rtol=1e-5, atol=2e-6)
        if options.kl and learnt.all():
            totals, counts = zip(*(result.figures["kl"] for result in results), strict=True)
            assert float(sum(totals)) / sum(counts) == pytest.approx(trls._metrics["eval"]["kl"][0], abs=1e-6)
