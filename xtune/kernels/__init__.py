"""Fused paths; beside each the plain PyTorch it must equal."""
