"""Two specialists into one student, beside fine-tuning on their answers and averaging their weights."""
