"""One file per objective, and what happens around the loop."""
