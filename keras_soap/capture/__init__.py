"""Operator graphs captured from Keras models: operators, losses and metrics."""
