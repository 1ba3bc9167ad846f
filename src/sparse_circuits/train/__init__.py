"""Weight-sparse training: schedules, projection, optimiser, checkpoints, the loop."""
