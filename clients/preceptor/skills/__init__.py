"""What is computed over skill banks: retrieval, near-duplicates, usefulness. Pure functions; numpy and no network."""
