"""Files of weights: reading them safely, teleporting them, and writing them as they were."""
