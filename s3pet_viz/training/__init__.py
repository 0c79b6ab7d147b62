"""What a search and a training share: rows to batches, device, fit, evaluation, model state."""
