"""Integrators: one contract (base), one registry, one driver."""
