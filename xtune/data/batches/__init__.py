"""From encoded samples to forward passes: draw, pack, plan, collate."""
