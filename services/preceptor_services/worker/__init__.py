"""The trainer's process: takes a run's lease, calls the trainer's loop, reports. One run at a time."""
