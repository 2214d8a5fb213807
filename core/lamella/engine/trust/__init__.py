"""How far a run can be believed: its confidence, its measurements, and images it knows nothing of."""
