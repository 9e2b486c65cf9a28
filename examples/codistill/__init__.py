"""Two students that teach each other: one spells words backward, one writes secret codes, each learns the other's."""
