"""How the models in the box are made: corpus, tokenizer, sparse model, dense twins, scores, model cards."""
