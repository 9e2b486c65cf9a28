"""Registered teachers."""
