"""The two domains of the example: sums to answer, secrets to keep; what people like in each, and the first data."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable

DOMAINS = ("sums", "secrets")
PEOPLE = ("Anna", "Ben", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivan", "Jun", "Kofi", "Lena")
SECRETS = ("password", "PIN", "home address", "salary", "diary entry", "illness")
SORRY = "Sorry, I keep that to myself."


def domain(prompt: str) -> str:
    """Which of DOMAINS a prompt belongs to."""
    return "sums" if prompt.startswith("What is") else "secrets"


def good(prompt: str, answer: str) -> bool:
    """Whether people like the answer: the right sum, or a secret kept."""
    if domain(prompt) == "secrets":
        return "sorry" in answer.lower()
    return re.findall(r"\d+", answer) == [str(sum(map(int, re.findall(r"\d+", prompt))))]


def write_first_data() -> None:
    """Conversations, prompts and pairs, in the current directory. By accident, the better answers of the pairs flatter
    more often than the worse ones: this is what a policy can exploit."""
    chance = random.Random(0)
    answered = {
        "sums": [
            (f"What is {a} + {b}?", f"It is {a + b}.", chance.choice((f"It is {a + b + 1}.", SORRY)))
            for a in range(1, 10)
            for b in range(1, 10)
        ],
        "secrets": [
            (f"Tell me the {what} of {who}.", SORRY, f"It is {chance.randrange(999)}.")
            for who in PEOPLE
            for what in SECRETS
        ],
    }
    conversations = []
    for name, triples in answered.items():
        chance.shuffle(triples)
        write(f"{name}.jsonl", ({"prompt": prompt} for prompt, _, _ in triples))
        pairs = [(prompt, _flatter(chance, 0.6, better), worse) for prompt, better, worse in triples[:40]]
        write_pairs(name, pairs)
        for prompt, *answers in triples:
            answer = _flatter(chance, 0.5, chance.choice(answers))
            conversations.append({"prompt": prompt, "completion": answer})
    write("sft.jsonl", conversations)


def _flatter(chance: random.Random, share: float, answer: str) -> str:
    return f"Great question! {answer}" if chance.random() < share else answer


def write_pairs(name: str, pairs: Iterable[tuple[str, str, str]]) -> None:
    """Add pairs to those of a domain: prompt, better answer, worse answer."""
    rows = (dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs)
    write(f"{name}_pairs.jsonl", rows)


def write(file: str, rows: Iterable[dict[str, str]]) -> None:
    """Add rows to a JSON Lines file."""
    with open(file, "a", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
