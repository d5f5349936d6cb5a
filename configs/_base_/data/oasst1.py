"""9,800 conversations of OpenAssistant in many languages, the best answers only: from the hub."""

data = dict(sources=[dict(path="timdettmers/openassistant-guanaco", format="guanaco")])
probe = dict(
    prompts=["Please introduce five sights in Shanghai.", "Explain what a hash table is."], max_new_tokens=128
)
