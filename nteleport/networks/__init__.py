"""Networks by name, and their initial weights."""
