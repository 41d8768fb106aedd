"""The benchmark: what is computed from the rounds and how it is shown; and that every measure can be taken."""
