"""Tasks made of prompt pairs whose next token the prompt determines."""
