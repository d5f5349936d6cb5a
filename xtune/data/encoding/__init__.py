"""From samples to token ids: render, cut into pieces, encode, make fit; in one process or several."""
