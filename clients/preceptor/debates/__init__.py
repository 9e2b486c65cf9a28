"""Debates between teachers: how one goes, whoever holds it."""
