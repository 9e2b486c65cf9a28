"""The standard parts, one file a role. Nothing here imports torch: parts call tensor methods."""
