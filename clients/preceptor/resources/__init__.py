"""What the control plane holds, one file a noun: each a thin, typed view of its endpoints."""
