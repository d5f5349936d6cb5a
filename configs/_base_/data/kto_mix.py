"""13,500 answers labelled good or bad, for KTO: from the hub."""

data = dict(sources=[dict(path="trl-lib/kto-mix-14k", format="labelled")])
probe = dict(
    prompts=["Please introduce five sights in Shanghai.", "Explain what a hash table is."], max_new_tokens=128
)
