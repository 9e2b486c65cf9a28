"""Two teachers, each wrong on what the other knows: a student of their debates against a student of either alone."""
