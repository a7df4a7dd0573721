"""Sagas DECIDE: the definition language, the pure machine, and the log that it writes. No I/O, no clock, no threads."""
