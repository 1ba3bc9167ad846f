"""What a circuit is, what it is made of, and what it scores."""
