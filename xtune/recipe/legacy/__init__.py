"""Configs of XTuner 0.1, and what they are as recipes."""
