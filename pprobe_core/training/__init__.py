"""Training of the small models that the product ships, from the world they know to their model cards."""
