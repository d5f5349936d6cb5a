"""A run directory: what it holds, and what is said about it."""
