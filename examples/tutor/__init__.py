"""Two students that teach each other in words: one says how a word is spelt backward, the other learns it from that."""
