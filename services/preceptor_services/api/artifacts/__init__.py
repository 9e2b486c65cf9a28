"""Models, datasets and checkpoints, under their content hashes."""
