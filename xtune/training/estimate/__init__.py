"""What a recipe takes of memory, time and disk, told from config.json and the headers of weight files."""
