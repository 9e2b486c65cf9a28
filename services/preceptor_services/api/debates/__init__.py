"""Debates: a question, the teachers that discuss it, what they said."""
