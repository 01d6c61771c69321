"""Nearest neighbours and k-means, on the GPU where faiss has one."""

from ood_core.neighbors.clusters import kmeans as kmeans
from ood_core.neighbors.clusters import nearest as nearest
from ood_core.neighbors.index import Index as Index
