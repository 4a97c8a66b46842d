"""Pictures of the studies, one module a study, each drawn from the study's table alone. No torch."""
