"""Configurations: each file has a get_config(); its docstring says what it runs and gives."""
