"""Measuring a model: on data of the user, and on tasks."""
