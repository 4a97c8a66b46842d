"""Running the jobs of an experiment: preflight checks, workers in parallel, and SLURM tasks."""
