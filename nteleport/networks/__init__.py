"""Networks by name, and how their weights start."""
