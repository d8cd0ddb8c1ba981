"""The operator graph of a model, and how it is captured from Keras."""
