from .catalogue import Catalogue
from .cost import UNITS_PER_DOLLAR, Cost, add_costs, compute_cost, format_dollars, format_price, to_dollars
from .model import CatalogueModel

__all__ = [
    "UNITS_PER_DOLLAR",
    "Catalogue",
    "CatalogueModel",
    "Cost",
    "add_costs",
    "compute_cost",
    "format_dollars",
    "format_price",
    "to_dollars",
]
