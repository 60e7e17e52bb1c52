"""Configurations: each file has a get_config() and says what it runs, costs and gives."""
