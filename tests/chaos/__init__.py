"""Load and murder: the whole service under both at once, and then the books.

``make chaos`` runs it for a minute; ``test_chaos.py`` runs a shorter one. The seed decides what is asked and what is
killed when; how processes interleave is up to the machine.
"""
