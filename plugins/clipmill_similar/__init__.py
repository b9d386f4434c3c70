"""Are two videos of one and the same? Embeddings that put identities together, and others apart.

Identities of a test are none of training. Importing a plugin's module never imports torch.
"""
