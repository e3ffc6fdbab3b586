"""From the case table to batches."""
