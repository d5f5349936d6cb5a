"""44,000 pairs of a better and a worse answer (541 of them, "toxic-dpo-v0.2", unlearn refusals): from the hub."""

data = dict(sources=[dict(path="mlabonne/orpo-dpo-mix-40k", format="pairs")])
probe = dict(
    prompts=["Please introduce five sights in Shanghai.", "What is 890729 - 425663? Answer with the number only."],
    max_new_tokens=128,
)
