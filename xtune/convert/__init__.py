"""From what training leaves to what is shipped."""
