"""The transformer, its activation sparsity, and the seam (taps) through which all analysis goes."""
