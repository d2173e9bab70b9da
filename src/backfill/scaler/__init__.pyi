from .cluster import Cluster, Phase, Placed, Placement
from .demand import DemandReader, EngineDemand
from .ray_cluster import RayCluster
from .scaler import SCALING, Scaler
from .serving import make_scaler, serve_scaler

__all__ = [
    "SCALING",
    "Cluster",
    "DemandReader",
    "EngineDemand",
    "Phase",
    "Placed",
    "Placement",
    "RayCluster",
    "Scaler",
    "make_scaler",
    "serve_scaler",
]
