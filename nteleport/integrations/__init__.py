"""Teleportation in the training loops of other frameworks, a module each: none is imported from elsewhere."""
