"""Integration of vector fields; knows callables, not networks."""
