"""Placeholder docstring: see docs."""
