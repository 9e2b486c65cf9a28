"""Methods written down against the recipe interface before it was frozen, each with the parts that only it needs.

They show that the interface says what the papers say: they type-check, round-trip through JSON, and run through the
real loss on random opinions (`test_sketches.py`). The vetted recipes, with their own equation tests, are another
matter.
"""
