"""Ids: each greater than the one before, none ever issued twice, whatever clocks and processes do."""
