"""Tensor side of the rules: one description of the arithmetic, an interpreter in plain torch and compiled kernels for processors."""
