"""Reading a circuit: where its nodes fire and what they do."""
