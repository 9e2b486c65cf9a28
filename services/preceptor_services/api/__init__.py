"""The control plane: HTTP in front of the database, the blobs and the queue."""
