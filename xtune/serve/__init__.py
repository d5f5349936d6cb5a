"""Answering over HTTP as OpenAI's API does, and in a browser."""
