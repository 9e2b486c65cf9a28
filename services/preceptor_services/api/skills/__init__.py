"""Skill banks."""
