"""Figures of a classifier's predictions, made with matplotlib and without a display."""

import math

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

COLUMNS = 8  # images in a row of most_confident_errors


def confusion_matrix(logits: Tensor, labels: Tensor) -> Figure:
    """Plot how often each label (rows) is predicted as each class (columns).

    Args:
        logits: [N, C], on the CPU.
        labels: [N].
    """
    classes = logits.shape[1]
    cells = (labels * classes + logits.argmax(1)).bincount(minlength=classes**2)
    counts = cells.reshape(classes, classes).numpy()
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    accuracy = counts.trace() / counts.sum()
    figure = Figure(figsize=(6, 5.4))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        axes.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.5 else "black",
            size=8,
        )
    axes.set(xlabel="predicted", ylabel="true", xticks=range(classes), yticks=range(classes))
    axes.set_title(f"{accuracy:.2%} of {counts.sum():,} are right")
    return figure


def most_confident_errors(
    images: Tensor, logits: Tensor, labels: Tensor, count: int = 32
) -> Figure:
    """Plot the wrong predictions with the highest confidence (softmax probability).

    Args:
        images: [N, H, W], grey.
        logits: [N, C], on the CPU.
        labels: [N].
        count: the largest number of images in the figure.
    """
    confidence, predicted = logits.softmax(1).max(1)
    errors = (predicted != labels).nonzero().flatten()
    shown = errors[confidence[errors].argsort(descending=True)][:count].tolist()
    rows = max(1, math.ceil(len(shown) / COLUMNS))
    height, width = images.shape[1:]
    cell_height, cell_width = height * 4 // 3, width * 8 // 7  # with room for the text
    sheet = images.new_zeros(rows * cell_height, COLUMNS * cell_width)
    figure = Figure(figsize=(1.2 * COLUMNS, 1.4 * rows + 0.5))
    axes = figure.subplots()
    for cell, index in enumerate(shown):
        bottom, left = (cell // COLUMNS + 1) * cell_height, cell % COLUMNS * cell_width
        sheet[bottom - height : bottom, left : left + width] = images[index]
        text = f"{labels[index]} → {predicted[index]}  {confidence[index]:.0%}"
        axes.text(left + width / 2, bottom - height - 3, text, ha="center", size=8)
    axes.imshow(sheet, cmap="gray_r")
    axes.set_axis_off()
    axes.set_title(f"the {len(shown)} most confident of {len(errors):,} errors: true → predicted")
    return figure
