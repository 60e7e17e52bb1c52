"""Configurations: each file has a get_config(); its docstring gives the command, time and result."""
