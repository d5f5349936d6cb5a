"""From files to batches: read, map, check, render, encode, plan, collate."""
