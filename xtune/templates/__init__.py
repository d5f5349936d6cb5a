"""Chat formats, one Jinja file each, and the one renderer."""
