"""A job as data and on disk: its content, its files, its lease and its state. No torch."""
