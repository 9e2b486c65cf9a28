"""A skill bank from nothing to a student that has no need of it any more."""
