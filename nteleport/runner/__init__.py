"""From an experiment file to finished jobs: reading, checking, expanding, and the places on disk."""
