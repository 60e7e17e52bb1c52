"""Models, data, training, evaluation and tables built on `gumbel`."""
