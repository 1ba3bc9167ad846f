"""Corpus sources, the tokenizer, and memory-mapped token shards."""
