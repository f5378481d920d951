"""Finding each method's own learning rate."""
