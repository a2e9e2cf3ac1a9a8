"""The training engine: one loop for every mechanism, task and number of processes."""
