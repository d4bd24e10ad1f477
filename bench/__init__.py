"""Speed, side by side with what people use instead: ``python -m bench``.

Every measurement is a process of its own, and those that are compared take turns, so
that a noisy machine disturbs all of them alike.
"""
