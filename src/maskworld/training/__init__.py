"""One training loop for every system: stages, resume bit for bit, `torchrun`."""
