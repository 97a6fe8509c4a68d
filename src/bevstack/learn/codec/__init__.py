"""Training of the learned image codec."""
