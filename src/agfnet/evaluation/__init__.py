"""Honest comparison: scorecards, pictures, whole experiments."""
