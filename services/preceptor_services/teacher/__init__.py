"""The teacher service: how likely a student's tokens are, served over HTTP."""
