"""What a model and a cache policy are asked in order to know what they are worth, and how the answers are scored."""
