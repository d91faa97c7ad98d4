"""Write, read and describe runs."""
