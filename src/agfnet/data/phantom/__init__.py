"""The built-in paired phantom: one drawn lesion, seen from above and in depth. Synthetic: no figure is clinical."""
