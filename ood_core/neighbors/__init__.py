"""Nearest neighbours and k-means, on the GPU where faiss has one."""

from ood_core.neighbors.clusters import kmeans as kmeans
from ood_core.neighbors.engine import device as device
from ood_core.neighbors.index import Index as Index
from ood_core.neighbors.index import nearest as nearest
