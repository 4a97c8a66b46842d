"""An experiment file: read, checked and expanded into jobs. No torch."""
