"""Losses, feature reconstruction learning, and the training run."""
