from .local import RowResult, RunOptions, arun, astream, run, stream

__version__: str

__all__ = ["RowResult", "RunOptions", "__version__", "arun", "astream", "run", "stream"]
