"""Diagnostics: functions of a problem and a trajectory."""
