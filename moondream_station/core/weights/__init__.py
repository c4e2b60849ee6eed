"""Which files a model's weights are, what they take, and whether they can be downloaded."""
