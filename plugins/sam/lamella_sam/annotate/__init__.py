"""The data engine: label, suggest, correct, accept, retrain, and promote only what is better."""
