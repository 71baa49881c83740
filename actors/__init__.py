"""The roles that make, measure, encode and export videos, as plain classes.

"Actor" is used in the reinforcement-learning sense: somebody who acts with the policy. Nothing here is a Ray actor;
`cluster/on_ray/crew.py` makes Ray actors of these classes, and tests call them as they are.
"""
