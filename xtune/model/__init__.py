"""Loading a base model and attaching adapters."""
