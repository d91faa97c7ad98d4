"""Find the fixed point of a DEQ, and differentiate through it."""
