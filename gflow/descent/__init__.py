"""The discrete counterparts of flows at many step sizes at once, gradient descent above all."""

from gflow.descent.clock import Clock, clocks, record_times
from gflow.descent.record import Descent
from gflow.descent.run import gradient_descent

__all__ = ["Clock", "Descent", "clocks", "gradient_descent", "record_times"]
