"""Writes conversations of about 3,000 tokens, in each of which one of many facts is asked for: python make_data.py OUT.jsonl"""

import json
import random
import sys

COLOURS = ("red", "blue", "green", "black", "white", "yellow", "brown", "grey", "violet", "orange")
THINGS = ("lamp", "chair", "kettle", "clock", "book", "piano", "bicycle", "umbrella", "mirror", "carpet", "vase", "drum")
ROOMS = ("kitchen", "attic", "cellar", "hall", "garden", "study", "workshop", "library", "stable", "tower")


def conversation(facts: int, pick: random.Random) -> dict:
    """So many facts, a question about one of them, and the answer."""
    things = pick.sample([f"{colour} {thing}" for colour in COLOURS for thing in THINGS], min(facts, 120))
    places = {thing: pick.choice(ROOMS) for thing in things}
    lines = [f"The {thing} stands in the {room}; nobody has moved it since the house was sold, and nobody will."
             for thing, room in places.items()]
    asked = pick.choice(things)
    question = "\n".join([*lines, "", f"Where does the {asked} stand?"])
    return {"messages": [{"role": "user", "content": question},
                         {"role": "assistant", "content": f"In the {places[asked]}."}]}


if __name__ == "__main__":
    pick = random.Random(0)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        for _ in range(64):
            file.write(json.dumps(conversation(110, pick)) + "\n")
