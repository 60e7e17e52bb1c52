"""Reproduction of the paper's tables and figures, from the picking of settings to the page."""
