"""A job as data and on disk: what it is, where its files are, who trains it, how it stands. No torch."""
