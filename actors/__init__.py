"""The roles that make and measure videos, as plain classes: prompt stream, generator, evaluator.

"Actor" is used in the reinforcement-learning sense: somebody who acts with the policy. Nothing here is a Ray actor;
`cluster/spawn.py` makes Ray actors of these classes, and tests call them as they are.
"""
