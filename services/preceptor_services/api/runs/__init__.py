"""Runs: wishes, leases, reports, and what happened."""
