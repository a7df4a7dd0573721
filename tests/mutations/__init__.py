"""The lines that keep the promises: each is taken out in a copy of the tree, and a named test must see it.

``python -m tests.mutations`` (``nox -s mutations``) tries them all; ``--only A9 I4`` some. They are listed in the TOML
files of this folder, by where they stand, and shown in ``docs/explanation/anomalies.md``.
"""
