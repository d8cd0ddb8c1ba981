"""How long parts of operators take on a device, analytic or measured."""
