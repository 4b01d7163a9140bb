"""Vector fields: the right-hand side f(t, x; theta) and its derivatives."""
