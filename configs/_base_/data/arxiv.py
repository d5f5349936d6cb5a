"""Titles for abstracts: Kaggle's Cornell-University/arxiv, or the lines of it you want, put where you stand."""

data = dict(sources=[dict(path="arxiv-metadata-oai-snapshot.json", format="arxiv")])
probe = dict(
    system="You find a concise and fitting title for the abstract of a scientific paper.",
    prompts=[
        "We train language models of 70 million to 16 billion weights on one data set. Their loss falls as a power of "
        "their size, and few large steps are worth more than many small ones."
    ],
    max_new_tokens=128,
)
