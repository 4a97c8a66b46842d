"""Training a network, with or without teleportations on the way."""
