"""52,000 instructions in English: alpaca_data.json of github.com/tatsu-lab/stanford_alpaca, put where you stand."""

data = dict(sources=[dict(path="alpaca_data.json", format="alpaca")])
probe = dict(prompts=["Give three tips for staying healthy.", "Name five sights in Shanghai."], max_new_tokens=128)
