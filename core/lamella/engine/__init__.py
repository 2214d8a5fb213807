"""The only loops, on Accelerate; the run folder."""
