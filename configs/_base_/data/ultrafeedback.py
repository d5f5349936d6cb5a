"""61,000 pairs of a better and a worse answer, rated by GPT-4; for reward models, so no probes: from the hub."""

data = dict(sources=[dict(path="argilla/ultrafeedback-binarized-preferences-cleaned", format="pairs")])
