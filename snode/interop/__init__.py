"""Bridges to other packages; each module needs an optional extra and is imported by its name."""
