"""Every error that this package raises on purpose. All of them say what to do."""


class SoapError(Exception):
    """Base of all errors of `keras_soap`."""


class CaptureError(SoapError, ValueError):
    """A model cannot be turned into an operator graph."""


class TopologyError(SoapError, ValueError):
    """A device topology is inconsistent, or names devices that do not exist."""


class CostError(SoapError, ValueError):
    """A cost profile does not hold, or does not fit, what is asked of it."""


class StrategyError(SoapError, ValueError):
    """A configuration or strategy does not fit its operators or its devices."""


class SearchError(SoapError, ValueError):
    """A search was asked for something that it cannot do."""


class ExecutionError(SoapError, RuntimeError):
    """A model, optimizer or data set cannot be run under a strategy."""


class ClusterError(SoapError, RuntimeError):
    """Clients that train together cannot find each other, differ, or have ended."""
