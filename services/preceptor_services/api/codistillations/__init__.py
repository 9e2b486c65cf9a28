"""Pairs of runs that teach each other: submitted, shown, stopped, taken up again, and what passes between them."""
