"""The `preceptor` command: one file a noun. Commands that start a process come from the packages that hold it."""
