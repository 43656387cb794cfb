"""Statistics of a few long rows in float64, block of columns by block of columns, so that no second matrix is made.

Letters: H rows, D coordinates.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 65_536
"""Columns handled at once: 25 rows of float64 are 13 MB, about a last-level cache."""


def column_blocks(rows_HD: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive blocks of columns with their place, cast to float64."""
    for first in range(0, rows_HD.shape[1], BLOCK):
        columns = slice(first, min(first + BLOCK, rows_HD.shape[1]))
        yield columns, rows_HD[:, columns].to(torch.float64)


def column_means(rows_HD: Tensor) -> Tensor:
    """Mean of every coordinate; float64, shape (D,)."""
    result_D = torch.empty(rows_HD.shape[1], dtype=torch.float64, device=rows_HD.device)
    for columns, block_HB in column_blocks(rows_HD):
        result_D[columns] = block_HB.mean(0)
    return result_D


def column_stds(rows_HD: Tensor, *, ddof: int) -> Tensor:
    """Standard deviation of every coordinate, dividing by H - ddof; float64, shape (D,). The caller sees to H > ddof."""
    result_D = torch.empty(rows_HD.shape[1], dtype=torch.float64, device=rows_HD.device)
    for columns, block_HB in column_blocks(rows_HD):
        result_D[columns] = block_HB.std(0, correction=ddof)
    return result_D


def pairwise_squared_distances(rows_HD: Tensor) -> Tensor:
    """Squared Euclidean distances between all rows, from differences; float64, symmetric, diagonal exactly 0."""
    num_rows = len(rows_HD)
    distances_HH = torch.zeros(num_rows, num_rows, dtype=torch.float64, device=rows_HD.device)
    for _, block_HB in column_blocks(rows_HD):
        for i in range(num_rows - 1):
            distances_HH[i, i + 1 :] += (block_HB[i + 1 :] - block_HB[i]).square().sum(1)
    return distances_HH + distances_HH.T


def projections(rows_HD: Tensor, center_D: Tensor, direction_D: Tensor) -> Tensor:
    """Inner products (row - center) . direction; float64, shape (H,)."""
    products_H = torch.zeros(len(rows_HD), dtype=torch.float64, device=rows_HD.device)
    for columns, block_HB in column_blocks(rows_HD):
        products_H += (block_HB - center_D[columns]) @ direction_D[columns]
    return products_H


def squared_distances_to(rows_HD: Tensor, center_D: Tensor) -> Tensor:
    """Squared Euclidean distances of the rows from a point; float64, shape (H,)."""
    distances_H = torch.zeros(len(rows_HD), dtype=torch.float64, device=rows_HD.device)
    for columns, block_HB in column_blocks(rows_HD):
        distances_H += (block_HB - center_D[columns]).square().sum(1)
    return distances_H
