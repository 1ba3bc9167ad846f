"""Finding the circuit of a task in a trained model."""
