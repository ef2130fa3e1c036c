"""Changes of a model's weights after which it is another model, whose cache is smaller."""
