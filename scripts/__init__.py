"""Entry points and figure makers over the experiments."""
