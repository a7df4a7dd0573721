"""``nox -s faults``: the order system on real services, broken in every way that we know, and checked from outside."""
