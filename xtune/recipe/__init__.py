"""What a recipe may say, and how a file becomes one."""
